"""A refit whose weights come in several requests: its workers are held in the middle of their update until the commit.

Tensor bodies carry handles to memory of one host, so a part may be for some of the workers only. What counts is how
many parts each has loaded: at the commit all must have the same number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import structlog

from sglang_diffusion_routing.control.broadcast import AT_ONCE, Outgoing
from sglang_diffusion_routing.control.refit_log import RefitRecord
from sglang_diffusion_routing.control.rows import reply, row_of_answer
from sglang_diffusion_routing.control.updates import Update, Updates, until_judged
from sglang_diffusion_routing.control.worker_api import Answer, Ended
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.weights import Loaded
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import NoOpenRefit, TooManyRefits
from sglang_diffusion_routing.schemas import FanOutReply, FanOutRow, RefitRow, SkippedRow

_log = structlog.get_logger(__name__)

REQUESTS_MAX = 64
"""Parts of one refit that come in at the same time, one for each host; each may hold a body on disk."""

_CONFLICT = 409
_UPDATING = {"success": True, "status": "updating"}


class _Phase(Enum):
    """What a refit in parts waits for; the value is said to a request that comes at the wrong time."""

    DRAIN = "still waits for its turn, or for the work of its workers to end"
    PARTS = "waits for parts"
    COMMIT = "is being committed"
    NOTHING = "is over"


@dataclass(slots=True)
class _Held:
    """A worker in the middle of its update.

    before: what it had. verdict: ends the update. parts: how many it has loaded. answer: its last good one.
    """

    worker: Worker
    before: Loaded
    verdict: asyncio.Future[Update]
    parts: int = 0
    answer: Answer | None = None

    def drop(self, update: Update) -> None:
        """End its update, unless that has ended."""
        if not self.verdict.done():
            self.verdict.set_result(update)

    async def is_replaced(self) -> bool:
        """Find out whether another process answers for it by now, or it was removed."""
        worker = self.worker
        await until_judged(worker)
        return worker.state is not WorkerState.UPDATING or worker.updates != worker.updates_begun


class Bracket:
    """The requests of one refit, from its begin to its commit.

    Args:
        part_limit_s: how long nothing may come between two requests.

    Attributes:
        refit_id, groups: of the refit. opened: set once all its workers are drained, or have dropped out.
        fault: why it ended before its commit, empty while it has not.
    """

    def __init__(self, record: RefitRecord, updates: Updates, part_limit_s: float) -> None:
        self.refit_id = record.refit_id
        self.groups = frozenset(record.groups)
        self.opened = asyncio.Event()
        self.fault = ""
        self._record = record
        self._updates = updates
        self._part_limit_s = part_limit_s
        self._phase = _Phase.DRAIN
        self._held: dict[WorkerId, _Held] = {}
        self._requests = 0
        self._fewer = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    # The refit's side.

    def hold(self, worker: Worker, before: Loaded) -> asyncio.Future[Update]:
        """Keep a drained worker out of service until it is decided what it has loaded."""
        self._held[worker.worker_id] = held = _Held(worker, before, asyncio.get_running_loop().create_future())
        if self._phase is _Phase.NOTHING:
            held.drop(_no_part())
        return held.verdict

    def open(self) -> None:
        """Take parts from now on."""
        self._phase = _Phase.PARTS
        self.opened.set()
        self._wait_for_the_next()

    def close(self) -> None:
        """Take nothing any more; the refit is over, or never came to its turn."""
        self._phase = _Phase.NOTHING
        self.opened.set()
        self._stop_waiting()

    # The client's side.

    @contextmanager
    def request(self) -> Iterator[None]:
        """Say that a request is being received or carried out: nothing ends the refit meanwhile but a commit.

        Raises:
            NoOpenRefit: the refit takes none now.
            TooManyRefits: too many come at the same time.
        """
        self._expect_parts()
        if self._requests >= REQUESTS_MAX:
            raise TooManyRefits(self._requests)
        self._requests += 1
        self._stop_waiting()
        try:
            yield
        finally:
            self._requests -= 1
            self._fewer.set()
            if not self._requests and self._phase is _Phase.PARTS:
                self._wait_for_the_next()

    async def part(self, only: Collection[WorkerId] | None, outgoing: Outgoing) -> list[FanOutRow]:
        """Send one part to all workers that are held, or to those of them in `only`; call it within `request`.

        A worker that does not load a part is out: what it has loaded before cannot be taken back.

        Raises:
            NoOpenRefit: none of them is held any more.
        """
        chosen = [held for held in self._held.values() if not held.verdict.done() and _is_in(only, held.worker)]
        if not chosen:
            raise NoOpenRefit(f"{self.refit_id} has none of these workers, or no more")
        self._record.parts += 1
        room = asyncio.Semaphore(AT_ONCE)

        async def send(held: _Held) -> FanOutRow:
            async with room:
                return await self._send(held, outgoing)

        async with asyncio.TaskGroup() as group:
            sending = [group.create_task(send(held)) for held in chosen]
        return [task.result() for task in sending]

    async def commit(self) -> None:
        """Decide for every worker that is held, once the parts under way have ended; call it within `request`.

        Raises:
            NoOpenRefit: somebody else has committed, or nobody is left.
        """
        self._expect_parts()
        self._phase = _Phase.COMMIT
        while self._requests > 1:
            self._fewer.clear()
            await self._fewer.wait()
        # Those that have dropped out count: they show how many parts there were.
        complete = max((held.parts for held in self._held.values()), default=0)
        replaced = await asyncio.gather(*(held.is_replaced() for held in self._held.values()))
        for held, is_replaced in zip(self._held.values(), replaced, strict=True):
            held.drop(_replaced() if is_replaced else _judged(held, complete))

    @property
    def takes_parts(self) -> bool:
        """Whether a worker is held that could take a part."""
        return any(map(self._holds, self._held))

    def begun(self, answers: Sequence[FanOutRow] = ()) -> FanOutReply:
        """Say which workers wait for parts, and what became of the others.

        Args:
            answers: to a first part that came along.
        """
        told = {row.worker_url: row for row in answers}
        rows = [
            told.get(worker_id) or self._row_of(worker_id, row)
            for worker_id, row in self._record.rows.items()
            if row.status != "skipped"
        ]
        skips = [self._out(worker_id) for worker_id, row in self._record.rows.items() if row.status == "skipped"]
        return reply(rows, skips, refit=self.refit_id)

    def took(self, rows: Sequence[FanOutRow], only: Collection[WorkerId] | None) -> FanOutReply:
        """Say what became of a part, and who of those that were meant did not get it."""
        told = {row.worker_url for row in rows}
        meant = self._record.rows.keys() if only is None else only
        out = [self._out(worker_id) for worker_id in meant if worker_id not in told]
        return reply(rows, out, refit=self.refit_id)

    # Within.

    def _expect_parts(self) -> None:
        if self._phase is not _Phase.PARTS:
            why = f": {self.fault}" if self.fault else ""
            raise NoOpenRefit(f"{self.refit_id} {self._phase.value}{why}")

    def _row_of(self, worker_id: WorkerId, row: RefitRow) -> FanOutRow:
        if self._holds(worker_id):
            return FanOutRow(worker_url=worker_id, status_code=200, body=_UPDATING)
        body = {"error": row.reason or row.status}
        return FanOutRow(worker_url=worker_id, status_code=row.status_code or _CONFLICT, body=body)

    def _out(self, worker_id: WorkerId) -> SkippedRow:
        row = self._record.rows.get(worker_id)
        reason = f"it has no part in {self.refit_id}" if row is None else row.reason or row.status
        return SkippedRow(worker_url=worker_id, reason=reason)

    def _holds(self, worker_id: WorkerId) -> bool:
        held = self._held.get(worker_id)
        return held is not None and not held.verdict.done()

    async def _send(self, held: _Held, outgoing: Outgoing) -> FanOutRow:
        worker = held.worker
        if await held.is_replaced():
            update = _replaced()
        else:
            try:
                answer = await self._updates.send(worker, outgoing)
            except BaseException:
                held.drop(Update(_refusal("the router broke off in the middle of a part"), unchanged=False))
                raise
            if answer.ended is Ended.SUCCEEDED:
                held.parts += 1
                held.answer = answer
                return row_of_answer(worker, answer)
            update = Update(answer, unchanged=False)
            if answer.ended is Ended.REFUSED and not held.parts:
                update = await self._updates.refused(worker, held.before, answer)
        held.drop(update)
        return row_of_answer(worker, update.answer)

    def _wait_for_the_next(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._part_limit_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """End the refit, loudly: whoever has some parts and not all has weights that nobody knows."""
        self.fault = f"nothing came for {self._part_limit_s:g} s after {self._record.parts} parts, and no commit"
        _log.error("refit_abandoned", refit=self.refit_id, parts=self._record.parts, fault=self.fault)
        self.close()
        for held in self._held.values():
            held.drop(Update(_refusal(self.fault), unchanged=not held.parts))


def _is_in(only: Collection[WorkerId] | None, worker: Worker) -> bool:
    return only is None or worker.worker_id in only


def _judged(held: _Held, complete: int) -> Update:
    """Say what a worker has at the commit of a refit of `complete` parts."""
    if not held.parts:
        return _no_part()
    if held.parts < complete or held.answer is None:
        return Update(_refusal(f"it has {held.parts} of {complete} parts"), unchanged=False)
    return Update(held.answer)


def _no_part() -> Update:
    return Update(_refusal("it got no part"), unchanged=True)


def _replaced() -> Update:
    return Update(_refusal("its process was replaced between two parts"), unchanged=False)


def _refusal(why: str) -> Answer:
    return Answer(Ended.REFUSED, _CONFLICT, {"error": why})
