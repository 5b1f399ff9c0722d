"""Bring one worker to its group's target: look at what it has, send it the refits it misses, and look again."""

from __future__ import annotations

import asyncio

import structlog

from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.refitter import Update
from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, WorkerApi
from sglang_diffusion_routing.core.events import WeightsChecked
from sglang_diffusion_routing.core.outlook import ResyncPlan
from sglang_diffusion_routing.core.refit import Step
from sglang_diffusion_routing.core.weights import Checksums, Unversioned
from sglang_diffusion_routing.core.worker import Worker

_log = structlog.get_logger(__name__)

_CONFLICT = 409
_HEX_SHOWN = 12
"""Digits of a checksum in a sentence: enough to find it in a trainer's log."""


class Resyncer:
    """The router's own refits, each of one worker that the pool has drained.

    Args:
        call_limit_s: how long a worker may take over one refit.

    Attributes:
        outcomes: resyncs so far by their end: "checked" (nothing had to be sent), "replayed", "refused", "lost".
    """

    def __init__(
        self, fleet: Fleet, api: WorkerApi, baselines: Baselines, *, call_limit_s: float, max_reply_bytes: int
    ) -> None:
        self._fleet = fleet
        self._api = api
        self._baselines = baselines
        self._call_limit_s = call_limit_s
        self._max_reply_bytes = max_reply_bytes
        self.outcomes = {"checked": 0, "replayed": 0, "refused": 0, "lost": 0}

    async def update(self, worker: Worker) -> Update:
        """Bring a drained worker to its group's target, or say why it stays out.

        Without a target the worker is only compared: `unchanged` False says that it has other weights than its peers,
        True that nobody could tell.
        """
        loop = asyncio.get_running_loop()
        began_s, plan = loop.time(), self._fleet.pool.resync_plan(worker)
        update, sent = await (self._compare(worker, plan) if plan.version is None else self._bring(worker, plan))
        outcome = update.answer.ended.value
        if update.answer.ended is Ended.SUCCEEDED:
            outcome = "replayed" if sent else "checked"
        self.outcomes[outcome] += 1
        _log.info(
            "worker_resynced",
            worker=worker.worker_id,
            group=plan.group,
            weights=plan.version,
            outcome=outcome,
            sent=sent,
            why=update.answer.message if outcome in {"refused", "lost"} else None,
            seconds=round(loop.time() - began_s, 3),
        )
        return update

    async def check(self, worker: Worker) -> None:
        """Look at what a serving worker has, and tell the pool if that can be told."""
        group, loaded, updates = worker.weight_group or "", worker.loaded, worker.updates
        expected = await self._baselines.expected(group, loaded)
        found = await self._baselines.read(worker) if expected else None
        if found:
            matches = found == expected
            _log.info("weights_checked", worker=worker.worker_id, matches=matches)
            self._fleet.apply(WeightsChecked(worker.worker_id, worker.incarnation, updates, matches))

    async def _compare(self, worker: Worker, plan: ResyncPlan) -> tuple[Update, int]:
        """Hold a worker against what its peers started with."""
        expected = await self._baselines.learn(plan.group, Unversioned.BASE)
        found = await self._baselines.read(worker)
        if found and expected:
            if found == expected:
                return _done(), 0
            return _refused(f"its weights are not its peers': {_difference(found, expected)}", unchanged=False), 0
        if found is None or expected:
            return _unreadable(unchanged=True), 0
        if found:
            return _refused("no peer has said what its weights are", unchanged=True), 0
        # Workers of this kind know no checksums: there is nothing to tell them apart by.
        return _done(), 0

    async def _bring(self, worker: Worker, plan: ResyncPlan) -> tuple[Update, int]:
        """Send a worker what it misses, unless it has the target; give the number of refits that it took."""
        assert plan.version is not None
        expected = await self._baselines.learn(plan.group, plan.version)
        found = await self._baselines.read(worker) if expected else None
        if expected:
            if not found:
                return _unreadable(unchanged=True), 0
            if found == expected:
                return _done(), 0
        if not plan.steps:
            return _refused(_unlike(plan, found, expected) + plan.obstacle, unchanged=True), 0
        for sent, step in enumerate(plan.steps):
            answer = await self._send(worker, step)
            if answer.ended is Ended.LOST:
                return Update(answer), sent
            if answer.ended is Ended.REFUSED:
                untouched = sent == 0 and found is not None and await self._baselines.read(worker) == found
                said = f"it refused the refit to {step.version!r}: {answer.message}"
                return _refused(said, unchanged=True if untouched else None, status=answer.status_code), sent
        if expected is None:
            self._baselines.take_new(worker, plan.group, plan.version)
            return _done(), len(plan.steps)
        return await self._proven(worker, plan, expected), len(plan.steps)

    async def _send(self, worker: Worker, step: Step) -> Answer:
        call = Call("POST", step.target, self._call_limit_s, dict(step.headers), step.body, self._max_reply_bytes)
        return await self._api.send(worker.url, call)

    async def _proven(self, worker: Worker, plan: ResyncPlan, expected: Checksums) -> Update:
        """Look at what a worker has after it was sent everything."""
        found = await self._baselines.read(worker)
        if not found:
            return _unreadable(unchanged=None)
        if found == expected:
            return _done()
        return _refused(f"{_unlike(plan, found, expected)}the same refits gave it others", unchanged=None)


def _done() -> Update:
    return Update(Answer(Ended.SUCCEEDED, 200, {"success": True}))


def _refused(why: str, *, unchanged: bool | None, status: int = _CONFLICT) -> Update:
    return Update(Answer(Ended.REFUSED, status, {"error": why}), unchanged)


def _unreadable(*, unchanged: bool | None) -> Update:
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
