"""Connections to the workers: kept while idle for a moment, opened when there is none."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.connect import open_worker_connection
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from sglang_diffusion_routing.tasks import spawn

WRITE_HIGH_WATER_BYTES = 65536
"""What may wait for a slow peer beyond the kernel's own buffers before its source is paused."""


class Upstreams:
    """All connections to all workers.

    max_connections: of all workers together, 0 for no limit; who finds none waits in order.
    idle_reuse_s: an idle connection older than this is closed instead of used (SGLang's uvicorn closes at 5 s).
    """

    def __init__(self, *, connect_timeout_s: float, idle_reuse_s: float, max_connections: int, max_head_bytes: int):
        self._connect_timeout_s = connect_timeout_s
        self._idle_reuse_s = idle_reuse_s
        self._max_connections = max_connections
        self._max_head_bytes = max_head_bytes
        self._idle: dict[WorkerId, list[UpstreamConnection]] = {}
        self._open: dict[WorkerId, int] = {}
        self._total = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._tls: ssl.SSLContext | None = None
        self._loop = asyncio.get_running_loop()
        self.connects_total = 0

    def take(self, worker_id: WorkerId) -> UpstreamConnection | None:
        """Give an idle connection to this worker that is fresh enough, the youngest first."""
        idle = self._idle.get(worker_id)
        if not idle:
            return None
        oldest_allowed_s = self._loop.time() - self._idle_reuse_s
        connection = idle.pop()
        if connection.idle_since_s >= oldest_allowed_s and not connection.transport.is_closing():
            return connection
        connection.close()
        for stale in idle:
            stale.close()
        idle.clear()
        return None

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request, or close it when its reply forbids that."""
        connection.detach()
        if not connection.reusable or self._waiting or connection.transport.is_closing():
            connection.close()
            return
        connection.reused = True
        connection.idle_since_s = self._loop.time()
        idle = self._idle.get(connection.worker_id)
        if idle is None:
            idle = self._idle[connection.worker_id] = []
        idle.append(connection)

    def open(
        self,
        worker_id: WorkerId,
        url: WorkerUrl | str,
        on_open: Callable[[UpstreamConnection], None],
        on_failure: Callable[[ConnectFailed], None],
    ) -> asyncio.Task[None]:
        """Connect in the background; one of the two is called unless the task is cancelled first.

        url: a worker, or the path of a Unix socket.
        """
        return spawn(self._open_and_tell(worker_id, url, on_open, on_failure), name="connect")

    async def _open_and_tell(
        self,
        worker_id: WorkerId,
        url: WorkerUrl | str,
        on_open: Callable[[UpstreamConnection], None],
        on_failure: Callable[[ConnectFailed], None],
    ) -> None:
        await self._make_room()
        self._total += 1
        self._open[worker_id] = self._open.get(worker_id, 0) + 1
        connection = UpstreamConnection(worker_id, self, self._max_head_bytes)
        try:
            await self._connect(connection, url)
        except BaseException as error:
            self._forget_one(worker_id)
            if isinstance(error, ConnectFailed):
                on_failure(error)
                return
            raise
        self.connects_total += 1
        on_open(connection)

    async def _connect(self, connection: UpstreamConnection, url: WorkerUrl | str) -> None:
        if isinstance(url, str):
            try:
                await self._loop.create_unix_connection(lambda: connection, url)
            except OSError as error:
                raise ConnectFailed("the control app", str(error.strerror or error)) from None
        else:
            tls = self._tls_context() if url.scheme == "https" else None
            await open_worker_connection(url, lambda: connection, timeout_s=self._connect_timeout_s, tls=tls)
        connection.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    async def _make_room(self) -> None:
        while self._max_connections and self._total >= self._max_connections:
            if self._close_one_idle():
                await asyncio.sleep(0)
                continue
            place = self._loop.create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                # The place may have been granted in the same moment: pass it on.
                if place.cancelled():
                    self._waiting.remove(place)
                else:
                    self._wake_one()
                raise

    def _close_one_idle(self) -> bool:
        for idle in self._idle.values():
            if idle:
                idle.pop(0).close()
                return True
        return False

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection has ended."""
        idle = self._idle.get(connection.worker_id)
        if idle and connection in idle:
            idle.remove(connection)
        self._forget_one(connection.worker_id)

    def _forget_one(self, worker_id: WorkerId) -> None:
        self._total -= 1
        left = self._open[worker_id] - 1
        if left:
            self._open[worker_id] = left
        else:
            del self._open[worker_id]
            self._idle.pop(worker_id, None)
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return

    def open_connections(self, worker_id: WorkerId) -> int:
        """How many connections to this worker exist, busy and idle."""
        return self._open.get(worker_id, 0)

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        oldest_allowed_s = self._loop.time() - self._idle_reuse_s
        for idle in list(self._idle.values()):
            for connection in [c for c in idle if c.idle_since_s < oldest_allowed_s]:
                idle.remove(connection)
                connection.close()

    def close_idle(self) -> None:
        """Close every idle connection."""
        for idle in list(self._idle.values()):
            for connection in idle:
                connection.close()
            idle.clear()
