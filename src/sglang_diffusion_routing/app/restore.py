"""Give a fresh fleet what an earlier run of the router knew."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import structlog

from sglang_diffusion_routing.core.affinity import Gone, Pinned
from sglang_diffusion_routing.core.events import LedgerRestored, WorkerRestored
from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import InvalidWorkerUrl
from sglang_diffusion_routing.runtime.loop import Fleet
from sglang_diffusion_routing.store import Saved, SavedJob, SavedWorker

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that ran when the router ended, on a worker that is there again."""

    kind: str
    job_id: str
    worker: Worker


def restore(fleet: Fleet, saved: Saved, job_ttl_s: float) -> list[RunningJob]:
    """Bring back weight groups, workers and the owners of jobs, in this order: a worker is judged by its group.

    Nobody is taken at its word: each worker is asked whether it is there and what it has loaded before it gets work.

    Returns:
        The jobs to follow once somebody can.
    """
    fleet.apply(LedgerRestored(_with_open_refits(saved)))
    workers: dict[int, Worker] = {}
    for worker in saved.workers:
        if (restored := _restore_worker(fleet, worker)) is not None:
            workers[worker.registration] = restored
    fleet.affinity.restore(_owners(saved.jobs, workers, fleet.now_s(), job_ttl_s))
    return [
        RunningJob(job.kind, job.job_id, workers[job.registration])
        for job in saved.jobs
        if job.running and job.registration in workers
    ]


def summary(saved: Saved) -> str:
    """Say in half a sentence what is restored."""
    kinds = {
        "asleep": sum(worker.asleep for worker in saved.workers),
        "quarantined": sum(worker.quarantined for worker in saved.workers),
        "drained": sum(worker.held for worker in saved.workers),
    }
    details = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    parts = [
        _count(len(saved.workers), "worker") + (f" ({details})" if details else ""),
        _count(sum(group.target is not None for group in saved.groups.values()), "weight target"),
        _count(len(saved.jobs), "job"),
    ]
    if unfinished := sum(refit.is_open for refit in saved.refits):
        parts.append(_count(unfinished, "unfinished refit"))
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _with_open_refits(saved: Saved) -> Mapping[str, Group]:
    """Leave a group fenced only by a refit that whoever resumes refits knows of, and will close."""
    known = {refit.refit_id for refit in saved.refits if refit.is_open}
    return {
        name: group if group.open is None or group.open.refit_id in known else replace(group, open=None, held=False)
        for name, group in saved.groups.items()
    }


def _restore_worker(fleet: Fleet, worker: SavedWorker) -> Worker | None:
    try:
        url = WorkerUrl.parse(worker.url)
    except InvalidWorkerUrl as error:
        _log.warning("worker_not_restored", worker=worker.url, reason=error.message)
        return None
    fleet.apply(
        WorkerRestored(
            url,
            labels=worker.labels,
            max_concurrency=worker.max_concurrency,
            quarantined=worker.quarantined,
            held=worker.held,
            asleep=worker.asleep,
        )
    )
    return fleet.pool.get(WorkerId(str(url)))


def _owners(
    jobs: tuple[SavedJob, ...], workers: Mapping[int, Worker], now_s: float, job_ttl_s: float
) -> Iterator[tuple[str, str, Pinned | Gone, float]]:
    """Give each job's owner and its time on the loop's clock, which began anew."""
    now_unix_s = time.time()
    for job in jobs:
        worker = workers.get(job.registration)
        owner = Gone(job.worker_url) if worker is None else Pinned(worker.worker_id, worker.incarnation)
        yield job.kind, job.job_id, owner, now_s + min(job.expires_unix_s - now_unix_s, job_ttl_s)
