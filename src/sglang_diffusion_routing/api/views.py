"""Show workers as clients see them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.state import Health, Intent, WorkerState
from sglang_diffusion_routing.core.worker import Worker, WorkerStatus
from sglang_diffusion_routing.schemas import LaunchedView, QueueView, TenantView, WorkerView

TENANTS_SHOWN = 20
BATCH = 100
"""Workers shown before the loop may do something else; one takes about 15 us."""


def view(worker: Worker, scheduler: Scheduler, slot: LaunchedView | None = None) -> WorkerView:
    """Show one worker.

    Args:
        slot: that of a worker which this router has started.
    """
    active = scheduler.in_flight(worker.worker_id)
    capability = worker.capability
    speed = scheduler.speed_of(worker.worker_id)
    return WorkerView(
        worker_id=worker.worker_id,
        display_id=worker.url.display_id,
        id=worker.worker_id,
        url=worker.worker_id,
        active_requests=active,
        is_dead=worker.health is Health.QUARANTINED,
        is_sleeping=worker.state is WorkerState.SLEEPING,
        consecutive_failures=worker.vitals.failures,
        video_support=capability.makes_video,
        status=worker.status.value,
        reason=reason(worker),
        state=worker.state.value,
        health=worker.health.value,
        weight_version=worker.weight_version,
        jobs=sum(lease.spec.creates_job for lease in scheduler.leases_of(worker.worker_id)) if active else 0,
        queued=max(0, active - 1),
        task_types=None if capability.task_types is None else list(capability.task_types),
        model=capability.models[0] if capability.models else None,
        max_concurrency=worker.max_concurrency,
        ramp=scheduler.ramp_of(worker.worker_id),
        speed=speed.per_s or None if speed is not None else None,
        speed_confidence=speed.confidence if speed is not None else 0.0,
        labels=dict(worker.labels),
        launcher=slot,
    )


_WHY_IT_DRAINS = {
    Intent.HOLD: "an operator holds it",
    Intent.REFIT: "it gets other weights once its work has ended",
    Intent.SLEEP: "it is put to sleep once its work has ended",
    Intent.REMOVE: "it is removed once its work has ended",
}

_WHY = {
    WorkerStatus.REMOVED: "it was removed",
    WorkerStatus.QUARANTINED: "it failed, and is back when a probe succeeds",
    WorkerStatus.UPDATING: "it gets other weights",
    WorkerStatus.RELEASING: "it is being put to sleep",
    WorkerStatus.RESUMING: "it is being woken",
    WorkerStatus.SLEEPING: "it sleeps",
    WorkerStatus.JOINING: "it has not answered a probe yet",
}


def reason(worker: Worker) -> str:
    """Say in a sentence why a worker gets no work, nothing while it does."""
    status = worker.status
    if worker.order is not None and worker.order.resync and status is not WorkerStatus.QUARANTINED:
        return worker.weights_reason
    if status is WorkerStatus.DRAINING and worker.intent is not None:
        return _WHY_IT_DRAINS[worker.intent]
    if status is WorkerStatus.QUARANTINED and worker.vitals.sticky:
        return "an operator has quarantined it"
    return _WHY.get(status, worker.weights_reason)


def view_queue(scheduler: Scheduler, now_s: float) -> QueueView:
    """Show what waits for a worker."""
    since_s = scheduler.queued_since_s
    return QueueView(
        requests=scheduler.queued,
        bytes=scheduler.queued_bytes,
        oldest_seconds=None if since_s is None else now_s - since_s,
        tenants=[
            TenantView(tenant=held.tenant, requests=held.requests, bytes=held.size_bytes, weight=held.weight)
            for held in scheduler.most_queued(TENANTS_SHOWN)
        ],
    )


async def view_all(
    workers: Iterable[Worker], scheduler: Scheduler, slots: Mapping[str, LaunchedView]
) -> list[WorkerView]:
    """Show workers, a few at a time: the data plane runs on the same loop.

    Args:
        slots: those of workers that this router has started, by worker id.
    """
    shown: list[WorkerView] = []
    for number, worker in enumerate(list(workers)):
        if number and number % BATCH == 0:
            await asyncio.sleep(0)
        shown.append(view(worker, scheduler, slots.get(worker.worker_id)))
    return shown
