"""Bring one worker to its group's target: look at what it has, send it the refits it misses, and look again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import structlog

from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, WorkerApi
from sglang_diffusion_routing.core.events import WeightsChecked
from sglang_diffusion_routing.core.outlook import ResyncPlan
from sglang_diffusion_routing.core.refit import Step
from sglang_diffusion_routing.core.weights import Checksums, Unversioned
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.spans import OFF, Tracer

_log = structlog.get_logger(__name__)

_CONFLICT = 409
_HEX_SHOWN = 12
"""Digits of a checksum in a sentence: enough to find it in a trainer's log."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one worker's resync.

    answer: the worker's to the refit that decided it, or the router's own.
    unchanged: of a refused one, whether the worker's weights are as before; None when nobody could tell.
    differs: whether it was seen to have other weights than its peers started with, and there is no target.
    sent: refits that it has taken.
    """

    answer: Answer
    unchanged: bool | None = None
    differs: bool = False
    sent: int = 0

    @property
    def outcome(self) -> str:
        """Give the word by which it is counted."""
        if self.answer.ended is not Ended.SUCCEEDED:
            return str(self.answer.ended.value)
        return "replayed" if self.sent else "checked"


class Resyncer:
    """The router's own refits, each of one worker that the pool has drained.

    Args:
        call_limit_s: how long a worker may take over one refit.

    Attributes:
        outcomes: resyncs so far by their end: "checked" (nothing had to be sent), "replayed", "refused", "lost".
    """

    def __init__(
        self,
        fleet: Fleet,
        api: WorkerApi,
        baselines: Baselines,
        *,
        call_limit_s: float,
        max_reply_bytes: int,
        tracer: Tracer = OFF,
    ) -> None:
        self._fleet = fleet
        self._api = api
        self._baselines = baselines
        self._call_limit_s = call_limit_s
        self._max_reply_bytes = max_reply_bytes
        self._tracer = tracer
        self.outcomes = {"checked": 0, "replayed": 0, "refused": 0, "lost": 0}

    async def update(self, worker: Worker) -> Verdict:
        """Bring a drained worker to its group's target, or say why it stays out."""
        loop = asyncio.get_running_loop()
        began_s, plan = loop.time(), self._fleet.pool.resync_plan(worker)
        with self._tracer.span("resync", worker=worker.worker_id, weight_version=plan.version or "base") as span:
            verdict = await (self._compare(worker, plan) if plan.version is None else self._bring(worker, plan))
            span.attributes.update(outcome=verdict.outcome, sent=verdict.sent)
            if verdict.answer.ended is not Ended.SUCCEEDED:
                span.error = verdict.outcome
        self.outcomes[verdict.outcome] += 1
        _log.info(
            "worker_resynced",
            worker=worker.worker_id,
            group=plan.group,
            weights=plan.version,
            outcome=verdict.outcome,
            sent=verdict.sent,
            why=None if verdict.answer.ended is Ended.SUCCEEDED else verdict.answer.message,
            seconds=round(loop.time() - began_s, 3),
        )
        return verdict

    async def check(self, worker: Worker) -> None:
        """Look at what a worker has that serves or sleeps, and tell the pool if that can be told."""
        name, updates = worker.weight_group or "", worker.updates
        group = self._fleet.pool.ledger.group(name)
        sequence = group.sequence
        expected = await self._baselines.expected(
            name, group.wanted if worker.loaded is Unversioned.UNCHECKED else worker.loaded
        )
        found = await self._baselines.read(worker) if expected else None
        if found:
            matches = found == expected
            _log.info("weights_checked", worker=worker.worker_id, matches=matches)
            self._fleet.apply(WeightsChecked(worker.worker_id, worker.incarnation, updates, matches, sequence))

    def learn(self, worker: Worker) -> None:
        """Have it found out what a worker's weights hash to."""
        self._baselines.take_new(worker, worker.weight_group or "", worker.loaded)

    async def _compare(self, worker: Worker, plan: ResyncPlan) -> Verdict:
        """Hold a worker against what its peers started with."""
        expected = await self._baselines.learn(plan.group, Unversioned.BASE)
        found = await self._baselines.read(worker)
        if found and expected:
            if found == expected:
                return _DONE
            why = f"its weights are not its peers': {_difference(found, expected)}"
            return replace(_refused(why, unchanged=True), differs=True)
        if found is None or expected:
            return _unreadable(unchanged=True)
        if found:
            return _refused("no peer has said what its weights are", unchanged=True)
        # Workers of this kind know no checksums: there is nothing to tell them apart by.
        return _DONE

    async def _bring(self, worker: Worker, plan: ResyncPlan) -> Verdict:
        """Send a worker what it misses, unless it has the target."""
        assert plan.version is not None
        expected = await self._baselines.learn(plan.group, plan.version)
        found = await self._baselines.read(worker) if expected else None
        if expected and not found:
            return _unreadable(unchanged=True)
        if expected and found == expected:
            return _DONE
        if not plan.steps:
            return _refused(_unlike(plan, found, expected) + plan.obstacle, unchanged=True)
        for sent, step in enumerate(plan.steps):
            answer = await self._send(worker, step)
            if answer.ended is Ended.LOST:
                return Verdict(answer, sent=sent)
            if answer.ended is Ended.REFUSED:
                untouched = found is not None and await self._baselines.read(worker) == found
                why = f"it refused the refit to {step.version!r}: {answer.message}"
                return replace(_refused(why, unchanged=True if untouched else None), sent=sent)
        # One that was sent the same meanwhile may have said what it has since.
        expected = self._fleet.pool.ledger.expected(plan.group, plan.version)
        if expected is None:
            self._baselines.take_new(worker, plan.group, plan.version)
            return replace(_DONE, sent=len(plan.steps))
        return replace(await self._proven(worker, plan, expected), sent=len(plan.steps))

    async def _send(self, worker: Worker, step: Step) -> Answer:
        call = Call("POST", step.target, self._call_limit_s, dict(step.headers), step.body, self._max_reply_bytes)
        return await self._api.send(worker.url, call)

    async def _proven(self, worker: Worker, plan: ResyncPlan, expected: Checksums) -> Verdict:
        """Look at what a worker has after it was sent everything."""
        found = await self._baselines.read(worker)
        if not found:
            return _unreadable(unchanged=None)
        if found == expected:
            return _DONE
        return _refused(f"{_unlike(plan, found, expected)}the same refits gave it others", unchanged=None)


_DONE = Verdict(Answer(Ended.SUCCEEDED, 200, {"success": True}))


def _refused(why: str, *, unchanged: bool | None) -> Verdict:
    return Verdict(Answer(Ended.REFUSED, _CONFLICT, {"error": why}), unchanged)


def _unreadable(*, unchanged: bool | None) -> Verdict:
    return _refused("it did not say what its weights are", unchanged=unchanged)


def _unlike(plan: ResyncPlan, found: Checksums | None, expected: Checksums | None) -> str:
    if not found or not expected:
        return ""
    return f"its weights are not those of {plan.version!r} ({_difference(found, expected)}); "


def _difference(found: Checksums, expected: Checksums) -> str:
    """Name the modules that differ, with the first digits of both checksums."""
    names = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    return ", ".join(f"{name} {_short(found.get(name))}, not {_short(expected.get(name))}" for name in names)


def _short(checksum: str | None) -> str:
    return "none" if checksum is None else checksum[:_HEX_SHOWN]
