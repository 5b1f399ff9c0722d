"""Why a worker's weights are not current, and what would bring it back."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_diffusion_routing.core.refit import Step
from sglang_diffusion_routing.core.weights import Checksums, Currency, Ledger, Unversioned
from sglang_diffusion_routing.core.worker import Worker, WorkerId


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be said of a worker's weights.

    reason: why they are not current, empty when they are.
    mends: they will be without anybody's doing, so that work may wait for it.
    can_resync: the router can do something about it: look, or send the missing steps.
    """

    reason: str = ""
    mends: bool = False
    can_resync: bool = False


@dataclass(frozen=True, slots=True)
class ResyncPlan:
    """How one worker is brought to its group's target.

    version: None while there is no target; then it is compared with what its peers started with.
    expected: the checksums it must have in the end, None where nobody knows them.
    steps: what it misses; empty when it can only be looked at.
    peer: a worker to compare with where nothing is expected.
    obstacle: why there are no steps.
    """

    group: str
    version: str | None
    expected: Checksums | None
    steps: tuple[Step, ...] = ()
    peer: WorkerId | None = None
    obstacle: str = ""


_NO_RESYNC = "it missed a refit, and the router was told not to send it again (--no-resync)"


def outlook(ledger: Ledger, worker: Worker, *, resync: bool) -> Outlook:
    """Say what is to be said of a worker's weights.

    Args:
        resync: whether missed refits are sent again.
    """
    if worker.currency is Currency.CURRENT:
        return Outlook()
    name = worker.weight_group
    if name is None:
        return Outlook("it has not said yet what it serves", mends=True)
    group = ledger.group(name)
    if group.open is not None and (worker.loaded == group.wanted or not ledger.mends(name)):
        return Outlook(f"a refit to {group.open.version!r} is under way", mends=True)
    fresh = not worker.resync_failures
    if group.unproven:
        return _with_remembered_target(ledger, worker, name, resync=resync)
    if group.target is None:
        return _without_target(ledger, worker, name)
    obstacle = _obstacle(ledger, worker, name, resync=resync)
    # A worker that has another version for certain need not be looked at.
    look = not isinstance(worker.loaded, str) and ledger.expected(name, group.target) is not None
    if obstacle is None:
        reason = worker.resync_error or f"it is brought to {group.target!r}"
        return Outlook(reason, mends=fresh, can_resync=True)
    if look and fresh:
        return Outlook(f"it is compared with {group.target!r}", mends=True, can_resync=True)
    return Outlook(f"it does not have {group.target!r}; {obstacle}")


def _with_remembered_target(ledger: Ledger, worker: Worker, name: str, *, resync: bool) -> Outlook:
    """Say what is to be said of a worker while nobody has been seen to have what its group should have."""
    target, fresh = ledger.group(name).target, not worker.resync_failures
    reason = f"no worker has been seen to have the remembered target {target!r}"
    if not ledger.wants_proof(name):
        obstacle = _obstacle(ledger, worker, name, resync=resync)
        if obstacle is None:
            return Outlook(worker.resync_error or f"it is brought to {target!r}", mends=fresh, can_resync=True)
        reason += f"; {obstacle}"
    look = fresh and ledger.expected(name, target or "") is not None
    return Outlook(worker.resync_error or reason, mends=look, can_resync=look)


def _obstacle(ledger: Ledger, worker: Worker, name: str, *, resync: bool) -> str | None:
    """Say why a worker cannot be sent what it misses; None when it can."""
    if not resync:
        return _NO_RESYNC
    group = ledger.group(name)
    obstacle = group.recipe.obstacle_for(worker.loaded)
    unknown = worker.loaded in (Unversioned.SUSPECT, Unversioned.OTHER) or worker.restored
    untold = ledger.expected(name, group.target or "") is None
    led = ledger.leads_from(name, worker.loaded, lora_only=worker.lora_only)
    if obstacle is None and unknown and untold and not led:
        return "what it has below the last refits is unknown, and so are the checksums that would tell"
    return obstacle


def _without_target(ledger: Ledger, worker: Worker, name: str) -> Outlook:
    if worker.loaded is Unversioned.UNCHECKED:
        fresh = not worker.resync_failures
        reason = worker.resync_error or "it is compared with what its peers started with"
        return Outlook(reason, mends=fresh, can_resync=True)
    if worker.loaded is Unversioned.SUSPECT and ledger.expected(name, Unversioned.BASE) is not None:
        fresh = not worker.resync_failures
        reason = worker.resync_error or "it is compared with what it started with"
        return Outlook(reason, mends=fresh, can_resync=fresh)
    if worker.loaded is Unversioned.OTHER:
        return Outlook("its weights differ from what its peers started with; the next refit brings it back")
    return Outlook("what it has loaded is unknown; the next refit brings it back")


def plan(ledger: Ledger, worker: Worker, peer: WorkerId | None, *, resync: bool) -> ResyncPlan:
    """Plan a worker's way to its group's target; the worker's group is known."""
    name = worker.weight_group or ""
    group = ledger.group(name)
    if group.target is None:
        return ResyncPlan(name, None, ledger.expected(name, Unversioned.BASE), peer=peer)
    expected = ledger.expected(name, group.target)
    if ledger.wants_proof(name):
        return ResyncPlan(name, group.target, expected, obstacle="a remembered target is not sent to anybody")
    obstacle = _obstacle(ledger, worker, name, resync=resync)
    if obstacle is not None:
        return ResyncPlan(name, group.target, expected, obstacle=obstacle)
    return ResyncPlan(name, group.target, expected, group.recipe.missing_from(worker.loaded))
