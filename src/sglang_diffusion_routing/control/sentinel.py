"""Hold one silent connection to every worker: its end is the first news of a death or a restart.

Three things are told: that the connection stands, so that from then on no other process can take the worker's place
unnoticed; at once that it has ended; and, a moment later, whether other connections to the worker still stand. A worker
keeps a connection that never sends a request, and its kernel closes it within milliseconds of the process's
end, however busy the process was. TCP keep-alive tells of hosts that vanish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from typing_extensions import override

from sglang_diffusion_routing.core.events import SentinelEnded, SentinelLost, SentinelOpened
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

SETTLE_S = 0.05
"""When a process dies its connections end one after the other; those for requests are counted once all have."""


News = SentinelOpened | SentinelEnded | SentinelLost


class _Silent(asyncio.Protocol):
    """A connection on which nothing is sent and what comes is ignored."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.BaseTransport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Sentinels:
    """The silent connections, by worker.

    Args:
        report: takes the news.
        open_since: counts the other connections to a worker that were made before an instant and still stand. One that
            is being made, or was made since, says nothing: another process may be at its other end.
        connector: the way to the workers.

    Attributes:
        ended_total: connections that have ended, or could not be opened.
    """

    def __init__(
        self,
        report: Callable[[News], None],
        open_since: Callable[[WorkerId, float], int],
        *,
        connect_timeout_s: float,
        connector: Connector | None = None,
    ) -> None:
        self._report = report
        self._open_since = open_since
        self._connect_timeout_s = connect_timeout_s
        self._connector = connector or Connector()
        self._tasks = Tasks()
        self._watching: dict[WorkerId, asyncio.Task[None]] = {}
        self.ended_total = 0

    def open(self, worker: Worker) -> None:
        """Watch a worker; `SentinelLost` follows in any case, when the connection has ended or could not be opened."""
        self.close(worker.worker_id)
        self._watching[worker.worker_id] = self._tasks.spawn(self._watch(worker), name="sentinel")

    def close(self, worker_id: WorkerId) -> None:
        """Watch a worker no longer, without a report."""
        task = self._watching.pop(worker_id, None)
        if task is not None:
            task.cancel()

    async def aclose(self) -> None:
        """Close every connection."""
        self._watching.clear()
        await self._tasks.cancel_all()

    async def _watch(self, worker: Worker) -> None:
        worker_id, incarnation = worker.worker_id, worker.incarnation
        ended_s = asyncio.get_running_loop().time()
        try:
            silent = await self._connector.open(worker.url, _Silent, timeout_s=self._connect_timeout_s)
        except ConnectFailed as error:
            _log.debug("sentinel_not_opened", worker=worker_id, why=error.message)
        else:
            try:
                self._report(SentinelOpened(worker_id, incarnation))
                await silent.ended
                ended_s = asyncio.get_running_loop().time()
                self._report(SentinelEnded(worker_id, incarnation))
                await asyncio.sleep(SETTLE_S)
            finally:
                silent.close()
        self.ended_total += 1
        connections = self._open_since(worker_id, ended_s)
        _log.info("sentinel_ended", worker=worker_id, other_connections=connections)
        self._report(SentinelLost(worker_id, incarnation, connections))
