"""Steps that tests of the pool share: what happens to a worker of a fleet, by its name."""

from __future__ import annotations

from core.fleet import Fleet, worker_id
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.health import ProbeFailure


def probe_failed(
    fleet: Fleet, name: str, failure: ProbeFailure, in_flight: int = 0, answered_s: float | None = None
) -> list[do.Command]:
    incarnation = fleet.worker(name).incarnation
    return fleet.apply(ev.ProbeFailed(worker_id(name), incarnation, failure, in_flight, answered_s))


def refit(fleet: Fleet, name: str, version: str) -> None:
    fleet.apply(ev.RefitRequested(worker_id(name), f"refit-{version}", version))


def succeed(fleet: Fleet, name: str) -> list[do.Command]:
    command_id = fleet.worker(name).command_id
    assert command_id is not None
    return fleet.apply(ev.CommandSucceeded(worker_id(name), command_id))


def put_to_sleep(fleet: Fleet, name: str) -> None:
    fleet.apply(ev.SleepRequested(worker_id(name)))
    succeed(fleet, name)
