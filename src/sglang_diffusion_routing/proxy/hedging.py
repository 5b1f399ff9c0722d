"""Look once a second for work that is worth a copy on another worker, and have it copied."""

from __future__ import annotations

from sglang_diffusion_routing.proxy.racing import Racing
from sglang_diffusion_routing.proxy.shared import Shared


def copy_stragglers(shared: Shared) -> None:
    """Copy what `core/hedge.py` deems worth it, as long as the budget lasts."""
    leases, budget = shared.leases, shared.hedge_budget
    scheduler = leases.scheduler
    if scheduler.paused:
        return
    for lease, rest_s in scheduler.hedges.stragglers(leases.now_s()):
        holder = lease.holder
        if not isinstance(holder, Racing) or not holder.may_be_copied():
            continue
        worker = scheduler.hedges.place(lease, rest_s)
        if worker is None:
            continue
        if not budget.take(scheduler.live_leases):
            return
        holder.copy_to(leases.adopt(worker, lease.spec))
