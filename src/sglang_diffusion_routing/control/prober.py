"""Ask every worker for its health when that is due, and for what it makes when that is not known."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import structlog

from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.worker_api import Answer, Ended, Failure, WorkerApi
from sglang_diffusion_routing.core.events import CapabilityLearned, ProbeFailed, ProbeSucceeded
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

SCAN_S = 0.25
"""How exactly a probe keeps its time; looking at 1,000 workers takes about 0.2 ms."""

AT_ONCE = 64
"""Probes under way at the same time; the others wait their turn, so that hundreds of workers do not stampede."""

SPREAD = 0.2
"""A healthy worker's probe comes up to this share of the interval early: workers registered together drift apart."""

ASKED_AT_MOST = 2
"""Times that a worker is asked what it makes, one after the other; then the next probe asks."""

_FAILURES = {
    Failure.UNREACHABLE: ProbeFailure.REFUSED,
    Failure.TIMED_OUT: ProbeFailure.TIMED_OUT,
    Failure.BROKEN: ProbeFailure.BAD_ANSWER,
    Failure.OVERSIZED: ProbeFailure.BAD_ANSWER,
}


class Prober:
    """Probes, at most one at a time for each worker.

    Attributes:
        outcomes: probes so far, by "succeeded" or the way they failed.
    """

    def __init__(
        self, fleet: Fleet, api: WorkerApi, *, interval_s: float, timeout_s: float, rng: random.Random
    ) -> None:
        self._fleet = fleet
        self._api = api
        self._timeout_s = timeout_s
        self._spread_s = SPREAD * interval_s
        self._rng = rng
        self._tasks = Tasks()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._early_s: dict[WorkerId, float] = {}
        self._whys: dict[WorkerId, str] = {}
        self.outcomes: Counter[str] = Counter()

    def start(self) -> None:
        """Begin to look for workers whose probe is due."""
        self._tasks.spawn(self._scan_for_ever(), name="prober")

    async def aclose(self) -> None:
        await self._tasks.cancel_all()

    def probe(self, worker: Worker) -> asyncio.Task[None]:
        """Probe a worker now, or join the probe of this registration of it that is under way."""
        task = self._under_way.get(worker.incarnation)
        if task is None:
            task = self._tasks.spawn(self._probe(worker), name="probe")
            self._under_way[worker.incarnation] = task
            task.add_done_callback(lambda _: self._under_way.pop(worker.incarnation, None))
        return task

    def forget(self, worker_id: WorkerId) -> None:
        """A worker has been removed."""
        self._early_s.pop(worker_id, None)
        self._whys.pop(worker_id, None)

    async def ask_capability(self, worker: Worker) -> None:
        """Ask a worker what it makes; one that does not say is taken to make what is unknown.

        Of one that could not answer, as on a busy machine, nothing is learned: what it makes says which weights it
        must have.
        """
        for _ in range(ASKED_AT_MOST):
            said = await self._api.capability(worker.url, self._timeout_s)
            if said is not None:
                self._fleet.apply(CapabilityLearned(worker.worker_id, worker.incarnation, said))
                return

    async def _scan_for_ever(self) -> None:
        while True:
            now_s = self._fleet.now_s()
            for worker in self._fleet.pool.workers.values():
                if now_s >= worker.vitals.probe_due_s - self._early_s.get(worker.worker_id, 0.0):
                    self.probe(worker)
            await asyncio.sleep(SCAN_S)

    async def _probe(self, worker: Worker) -> None:
        async with self._room:
            answer = await self._api.health(worker.url, self._timeout_s)
            failure = failure_of(answer)
            # A worker that comes back may be another process with another model.
            if failure is None and (worker.health is not Health.HEALTHY or worker.capability.task_types is None):
                await self.ask_capability(worker)
        worker_id, incarnation = worker.worker_id, worker.incarnation
        if failure is None:
            self.outcomes["succeeded"] += 1
            self._whys.pop(worker_id, None)
            self._early_s[worker_id] = self._rng.uniform(0.0, self._spread_s)
            self._fleet.apply(ProbeSucceeded(worker_id, incarnation))
            return
        self.outcomes[failure.name.lower()] += 1
        if self._whys.get(worker_id) != answer.message:
            # The same again is no news.
            self._whys[worker_id] = answer.message
            _log.info("probe_failed", worker=worker_id, why=answer.message)
        self._early_s.pop(worker_id, None)
        scheduler = self._fleet.scheduler
        self._fleet.apply(
            ProbeFailed(
                worker_id,
                incarnation,
                failure,
                in_flight=scheduler.in_flight(worker_id),
                answered_s=scheduler.answered_s(worker_id),
            )
        )


def failure_of(answer: Answer) -> ProbeFailure | None:
    """Read the answer to the question for a worker's health: only a 200 is well.

    A worker whose scheduler process has died answers 503 `{"status": "unhealthy"}` for ever; one that warms up answers
    503 with nothing in it.
    """
    if answer.ended is Ended.SUCCEEDED and answer.status_code == 200:
        return None
    if answer.status_code == 503 and isinstance(answer.body, dict) and answer.body.get("status") == "unhealthy":
        return ProbeFailure.ENGINE_DIED
    return ProbeFailure.BAD_ANSWER if answer.failure is None else _FAILURES[answer.failure]
