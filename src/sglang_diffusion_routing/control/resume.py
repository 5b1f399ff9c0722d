"""What is needed to go on with a refit that the end of an earlier run of the router has interrupted."""

from __future__ import annotations

import asyncio

from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.control.plan import Refit
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.worker import DRAIN_LIMIT_S
from sglang_diffusion_routing.store import SavedRefit

_IDEMPOTENT = frozenset({StepKind.DISK, StepKind.SET_LORA})
"""Loading the same files twice changes nothing; a merge on top of a merge does, and tensors are gone."""

_LOOK_AGAIN_S = 0.05


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


def is_last(ledger: Ledger, saved: SavedRefit) -> bool:
    """Tell whether no other refit has come after it in any of its groups."""
    groups = [ledger.group(name) for name in saved.groups]
    return all(
        group.raised_by == saved.refit_id or (group.open is not None and group.open.refit_id == saved.refit_id)
        for group in groups
    )


async def until_probed(fleet: Fleet, within_s: float) -> None:
    """Wait until every worker has answered its first probe or failed it, but no longer than that."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while any(worker.health is Health.UNKNOWN for worker in fleet.pool.workers.values()):
        if asyncio.get_running_loop().time() >= deadline_s:
            return
        await asyncio.sleep(_LOOK_AGAIN_S)
