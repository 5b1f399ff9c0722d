"""Ask workers about things that they made: whose it is, how it goes, what there is."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.worker_api import Call, Ended, WorkerApi
from sglang_diffusion_routing.core.jobs import status_in
from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.work import JobStatus
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.tasks import Tasks

AT_ONCE = 128
"""Questions under way at the same time, over all searches: ids that nobody knows must not flood the workers."""

SEARCHES_MAX = 1024
"""Ids that are searched for at the same time; beyond them an unknown id is not looked for."""


class JobLocator:
    """Finds the worker that made a thing whose id the router does not know (any more)."""

    def __init__(self, fleet: Fleet, api: WorkerApi, *, timeout_s: float) -> None:
        self._fleet = fleet
        self._api = api
        self._timeout_s = timeout_s
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks = Tasks()
        self._searches: dict[tuple[str, str], asyncio.Task[WorkerId | None]] = {}

    async def aclose(self) -> None:
        await self._tasks.cancel_all()

    async def locate(self, kind: str, job_id: str) -> WorkerId | None:
        """Ask all workers at once, and remember the one that knows the id; None when none does.

        Args:
            kind: "videos", "meshes" or "images".
        """
        key = (kind, job_id)
        search = self._searches.get(key)
        if search is None:
            if len(self._searches) >= SEARCHES_MAX:
                return None
            search = self._tasks.spawn(self._search(kind, job_id), name="locate-job")
            self._searches[key] = search
            search.add_done_callback(lambda _: self._searches.pop(key, None))
        return await asyncio.shield(search)

    async def _search(self, kind: str, job_id: str) -> WorkerId | None:
        workers = [w for w in self._fleet.pool.workers.values() if w.health is not Health.QUARANTINED]
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(self._knows(worker, kind, job_id)) for worker in workers]
        for worker, answer in zip(workers, answers, strict=True):
            if answer.result() and self._fleet.pool.get(worker.worker_id) is worker:
                self._fleet.affinity.remember(kind, job_id, worker, self._fleet.now_s())
                return worker.worker_id
        return None

    async def _knows(self, worker: Worker, kind: str, job_id: str) -> bool:
        """Tell whether a worker knows an id; an image has no status, so its first byte is asked for."""
        name = quote(job_id, safe="")
        if kind == "images":
            call = Call("GET", f"/v1/images/{name}/content", self._timeout_s, {"range": "bytes=0-0"}, head_only=True)
        else:
            call = Call("GET", f"/v1/{kind}/{name}", self._timeout_s, head_only=True)
        async with self._room:
            return (await self._api.send(worker.url, call)).ended is Ended.SUCCEEDED


class JobProbe:
    """Asks a worker about one of its jobs.

    Args:
        barrier_limit_s: how long a call may wait in a worker's queue.
    """

    def __init__(self, api: WorkerApi, *, timeout_s: float, barrier_limit_s: float) -> None:
        self._api = api
        self._timeout_s = timeout_s
        self._barrier_limit_s = barrier_limit_s

    async def status(self, kind: str, job_id: str, worker: Worker) -> JobStatus:
        """Ask once; a worker that is too busy to answer says nothing about the job."""
        answer = await self._api.send(worker.url, Call("GET", f"/v1/{kind}/{quote(job_id, safe='')}", self._timeout_s))
        if answer.status_code == 404 and answer.ended is Ended.REFUSED:
            return JobStatus.UNKNOWN
        if answer.ended is not Ended.SUCCEEDED or not isinstance(answer.body, dict):
            return JobStatus.LOST
        status = answer.body.get("status")
        return status_in(status if isinstance(status, str) else None)

    async def barrier(self, worker: Worker) -> None:
        """Return when a call through the worker's queue has come back, or cannot.

        `/stats` waits there behind the work that came before it, and costs nothing.
        """
        await self._api.send(worker.url, Call("GET", "/stats", self._barrier_limit_s))
