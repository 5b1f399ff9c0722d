"""Send one request to many workers, and gather one row from each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.rows import reply, row_of_answer, skipped
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.control.worker_api import Answer, Call, WorkerApi
from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import NoEligibleWorker
from sglang_diffusion_routing.schemas import FanOutReply, SkippedRow

AT_ONCE = 256
"""Calls under way at the same time for one fan-out; each may hold a reply of up to 1 MiB."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A client's request, as every worker is to get it.

    target: path and query, without the router's own parameters. body: kept until the last worker has read it.
    """

    method: str
    target: str
    body: Spool
    headers: Mapping[str, str] = field(default_factory=dict)

    def call(self, timeout_s: float, max_reply_bytes: int) -> Call:
        """Give the call for one worker; each has its own place in the body."""
        headers = dict(self.headers)
        if self.body.size_bytes or self.method in {"POST", "PUT", "PATCH"}:
            headers["content-length"] = str(self.body.size_bytes)
        content = self.body.chunks() if self.body.size_bytes else None
        return Call(self.method, self.target, timeout_s, headers, content, max_reply_bytes)


class Broadcast:
    """Plain fan-outs: nothing about a worker's state is changed or awaited.

    Args:
        timeout_s: how long a worker may take over its answer, unless the client sets less.
    """

    def __init__(self, fleet: Fleet, api: WorkerApi, *, timeout_s: float, max_reply_bytes: int) -> None:
        self._fleet = fleet
        self._api = api
        self._timeout_s = timeout_s
        self._max_reply_bytes = max_reply_bytes

    async def send(
        self, workers: Sequence[Worker], outgoing: Outgoing, *, timeout_s: float | None = None, asleep_too: bool = False
    ) -> FanOutReply:
        """Send `outgoing` to those of `workers` that are eligible.

        Raises:
            NoEligibleWorker: none is.
        """
        eligible, skips = sort_out(workers, asleep_too=asleep_too)
        if not eligible:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        answers = await ask_all(self._api, eligible, lambda: outgoing.call(limit_s, self._max_reply_bytes))
        rows = [row_of_answer(worker, answer) for worker, answer in zip(eligible, answers, strict=True)]
        return reply(rows, skips)


async def ask_all(api: WorkerApi, workers: Sequence[Worker], call: Callable[[], Call]) -> list[Answer]:
    """Make one call on each worker, some at a time, and give the answers in the order of the workers."""
    room = asyncio.Semaphore(AT_ONCE)

    async def ask(worker: Worker) -> Answer:
        async with room:
            return await api.send(worker.url, call())

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(worker)) for worker in workers]
    return [task.result() for task in tasks]


def sort_out(workers: Sequence[Worker], *, asleep_too: bool = False) -> tuple[list[Worker], list[SkippedRow]]:
    """Split workers into those that may be asked now and those that are left out, with the reason."""
    eligible: list[Worker] = []
    skips: list[SkippedRow] = []
    for worker in workers:
        awake = worker.state is WorkerState.ACTIVE or (asleep_too and worker.state is WorkerState.SLEEPING)
        if awake and worker.health is not Health.QUARANTINED:
            eligible.append(worker)
        else:
            skips.append(skipped(worker, worker.status.value))
    return eligible, skips
