"""What is needed to go on with a refit that the end of an earlier run of the router has interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.control.plan import Refit, sort_out
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.core.events import RefitOpened
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.worker import DRAIN_LIMIT_S, Worker
from sglang_diffusion_routing.store import SavedRefit

_IDEMPOTENT = frozenset({StepKind.DISK, StepKind.SET_LORA})
"""Loading the same files twice changes nothing; a merge on top of a merge does, and tensors are gone."""

_LOOK_AGAIN_S = 0.05

_TRY_AGAIN_S = 0.25
"""How late a worker is noticed that a resumed refit has waited for."""


def may_repeat(step: Step) -> bool:
    """Tell whether sending a refit twice does no harm."""
    return step.kind in _IDEMPOTENT and step.self_contained


def refit_of(saved: SavedRefit) -> Refit | None:
    """Give the request once more; None where it must not, or cannot, be sent again."""
    step = saved.step
    if step is None or not may_repeat(step):
        return None
    rolling = saved.mode is Mode.ROLLING
    return Refit(
        kind=step.kind,
        outgoing=Outgoing("POST", step.target, Spool.of(step.body), dict(step.headers)),
        version=saved.version,
        drain_limit_s=DRAIN_LIMIT_S if saved.drain_limit_s is None else saved.drain_limit_s,
        # How many at once is not remembered: one by one is right for every fleet.
        pace=Pace(saved.mode, at_once=1 if rolling else None, admit_new=saved.admit_new),
        content=step.body,
    )


async def until_probed(fleet: Fleet, within_s: float) -> None:
    """Wait until every worker has answered its first probe or failed it, but no longer than that."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while any(worker.health is Health.UNKNOWN for worker in fleet.pool.workers.values()):
        if asyncio.get_running_loop().time() >= deadline_s:
            return
        await asyncio.sleep(_LOOK_AGAIN_S)


@dataclass(frozen=True, slots=True)
class Resumption:
    """A refit that waits for a worker that can take it.

    Its groups stay fenced meanwhile, and the router brings their workers to what the refit builds on.

    sequences: how often the targets of its groups had been raised when it was taken up.
    """

    fleet: Fleet
    saved: SavedRefit
    sequences: Mapping[str, int]

    @classmethod
    def of(cls, fleet: Fleet, saved: SavedRefit) -> Resumption:
        """Take up a refit: from now on it is known that it may have reached any worker."""
        ledger = fleet.pool.ledger
        resumption = cls(fleet, saved, {name: ledger.group(name).sequence for name in saved.groups})
        resumption.reopen()
        return resumption

    def reopen(self) -> None:
        """Have its groups fenced by it."""
        saved = self.saved
        if saved.step is not None:
            refit_id, version, mode = saved.refit_id, saved.version, saved.mode
            opened = RefitOpened(saved.groups, refit_id, version, mode, saved.step, saved.admit_new, dormant=True)
            self.fleet.apply(opened)

    @property
    def overtaken(self) -> bool:
        """Whether other weights have come to one of its groups since."""
        ledger = self.fleet.pool.ledger
        return any(ledger.group(name).sequence != sequence for name, sequence in self.sequences.items())

    def workers(self) -> list[Worker]:
        """Give those that it is for."""
        return [worker for worker in self.fleet.pool.workers.values() if worker.weight_group in self.saved.groups]

    @property
    def can_go_on(self) -> bool:
        """Whether there is a worker that can be refit, and has what the refit builds on."""
        eligible, _ = sort_out(self.workers(), self.saved.groups)
        return any(self.fleet.pool.takes(worker, self.saved.refit_id) for worker in eligible)

    async def until_worth_a_try(self) -> None:
        """Wait until it can go on, or has been overtaken; with a sleeping fleet that may take as long as it likes."""
        while True:
            await asyncio.sleep(_TRY_AGAIN_S)
            if self.overtaken or self.can_go_on:
                return
