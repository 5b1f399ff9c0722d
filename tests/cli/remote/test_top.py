"""Tests of `top`."""

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console

from sglang_diffusion_routing.cli.remote.top import Watch, frame
from sglang_diffusion_routing.client import Client
from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter
from support.shell import Shell

pytestmark = pytest.mark.loopback


def worker(name: str, **facts: Any) -> dict[str, Any]:
    return {
        "display_id": name,
        "status": "active",
        "active_requests": 0,
        "weight_version": "0",
        "speed": None,
        "reason": "",
        **facts,
    }


def drawn(width: int, *workers: dict[str, Any], oldest: float | None = None, per_s: float | None = None) -> str:
    seen = {
        "url": "http://r",
        "workers": list(workers),
        "queue": {"requests": 3 if oldest is not None else 0, "oldest_seconds": oldest},
        "finished_per_second": per_s,
    }
    stream = io.StringIO()
    Console(file=stream, width=width).print(frame(seen, width))
    return stream.getvalue()


@pytest.mark.core
def test_one_look_shows_load_weights_and_reasons() -> None:
    shown = drawn(
        140,
        worker("a:1", active_requests=2, speed=12.345),
        worker("b:2", status="quarantined", reason="it failed", weight_version=None),
        oldest=61.2,
        per_s=2.25,
    )

    lines = shown.splitlines()
    assert lines[0].split("   ")[1:] == [
        "1 active, 1 quarantined",
        "2 running, 3 waiting (oldest 61 s)",
        "2.2 finished a second",
    ]
    assert lines[3].split() == ["a:1", "active", "██", "0", "12.3"]
    assert lines[4].split() == ["b:2", "quarantined", "?", "it", "failed"]


@pytest.mark.core
def test_a_narrow_terminal_and_hostile_names_break_nothing() -> None:
    shown = drawn(40, *(worker(f"\x1b[2J[red]{index}", active_requests=100) for index in range(256)))

    assert "\x1b[2J" not in shown
    assert all(len(line) <= 40 for line in shown.splitlines())
    assert shown.count("█ x 100") == 256
    assert "speed" not in shown


@pytest.mark.core
def test_a_router_without_workers_is_shown() -> None:
    assert "no workers" in drawn(80)


async def test_a_look_without_a_terminal_is_one_look(shell: Shell, workers: list[SimInThread]) -> None:
    shown = await shell.run("top")
    assert shown.status == 0
    assert all(worker.url.removeprefix("http://") in shown.out for worker in workers)
    seen = (await shell.run("top", "--once", "--json")).json
    assert (len(seen["workers"]), seen["finished_per_second"]) == (2, None)


async def test_the_rate_is_of_what_was_finished_in_between(router: RunningRouter) -> None:
    with Client(str(router.client.base_url)) as client:
        watch = Watch(client)
        assert (await asyncio.to_thread(watch.look))["finished_per_second"] is None
        assert (
            await router.client.post("/v1/images/generations", json={"prompt": "a", "size": "64x64"})
        ).status_code == 200
        assert (await asyncio.to_thread(watch.look))["finished_per_second"] > 0
        assert (await asyncio.to_thread(watch.look))["finished_per_second"] == 0.0
