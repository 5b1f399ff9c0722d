"""Connections to the workers: kept while idle for a moment, opened when there is none."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from sglang_diffusion_routing.tasks import spawn

WRITE_HIGH_WATER_BYTES = 65536
"""What may wait for a slow peer beyond the kernel's own buffers before its source is paused."""


class Upstreams:
    """All connections to all workers.

    max_connections: to one worker, 0 for no limit; who finds none waits in order.
    connector: the way to them.
    idle_reuse_s: an idle connection older than this is closed instead of used (SGLang's uvicorn closes at 5 s).
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        idle_reuse_s: float,
        max_connections: int,
        max_head_bytes: int,
        connector: Connector | None = None,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_reuse_s = idle_reuse_s
        self._max_connections = max_connections
        self._max_head_bytes = max_head_bytes
        self._connector = connector or Connector()
        self._idle: dict[WorkerId, list[UpstreamConnection]] = {}
        self._open: dict[WorkerId, int] = {}
        self._connections: set[UpstreamConnection] = set()
        self._waiting: dict[WorkerId, deque[asyncio.Future[UpstreamConnection | None]]] = {}
        self._loop = asyncio.get_running_loop()
        self.connects_total = 0

    def __len__(self) -> int:
        return len(self._connections)

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
        connection.resume()
        if not connection.reusable or connection.transport.is_closing():
            connection.close()
            return
        connection.reused = True
        if self._waiting and self._hand_over(connection.worker_id, connection):
            return
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
        while self._max_connections and self.open_connections(worker_id) >= self._max_connections:
            handed_over = await self._wait_for_one(worker_id)
            if handed_over is None:
                break
            if not handed_over.transport.is_closing():
                on_open(handed_over)
                return
        else:
            self._open[worker_id] = self.open_connections(worker_id) + 1
        connection = UpstreamConnection(worker_id, self, self._max_head_bytes)
        try:
            await self._connect(connection, url)
        except BaseException as error:
            # Cancelled in the moment it was made, it may or may not be told that it is lost: it counts once either way.
            if connection.made:
                connection.transport.abort()
            self.lost(connection)
            if not isinstance(error, ConnectFailed):
                raise
            on_failure(error)
            return
        if connection.transport.is_closing():
            on_failure(ConnectFailed(str(worker_id), "it closed the connection at once"))
            return
        self._connections.add(connection)
        self.connects_total += 1
        on_open(connection)

    async def _connect(self, connection: UpstreamConnection, url: WorkerUrl | str) -> None:
        if isinstance(url, str):
            try:
                await self._loop.create_unix_connection(lambda: connection, url)
            except OSError as error:
                raise ConnectFailed("the control app", str(error.strerror or error)) from None
        else:
            await self._connector.open(url, lambda: connection, timeout_s=self._connect_timeout_s)
        connection.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    async def _wait_for_one(self, worker_id: WorkerId) -> UpstreamConnection | None:
        place: asyncio.Future[UpstreamConnection | None] = self._loop.create_future()
        line = self._waiting.setdefault(worker_id, deque())
        line.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.cancelled():
                line.remove(place)
            elif (connection := place.result()) is not None:
                # Handed over in the same moment.
                self.give_back(connection)
            else:
                self._count_out(worker_id)
            raise
        finally:
            if not line:
                self._waiting.pop(worker_id, None)

    def _hand_over(self, worker_id: WorkerId, connection: UpstreamConnection | None) -> bool:
        """Give a connection, or (None) the room for one, which stays counted, to who waits first."""
        for place in self._waiting.get(worker_id, ()):
            if not place.done():
                place.set_result(connection)
                self._waiting[worker_id].remove(place)
                return True
        return False

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection has ended, or was never made; heard of twice, it counts once."""
        if not connection.counted:
            return
        connection.counted = False
        self._connections.discard(connection)
        idle = self._idle.get(connection.worker_id)
        if idle and connection in idle:
            idle.remove(connection)
        self._count_out(connection.worker_id)

    def _count_out(self, worker_id: WorkerId) -> None:
        if self._waiting and self._hand_over(worker_id, None):
            return
        left = self._open[worker_id] - 1
        if left:
            self._open[worker_id] = left
        else:
            del self._open[worker_id]
            self._idle.pop(worker_id, None)

    def open_connections(self, worker_id: WorkerId) -> int:
        """How many connections to this worker exist, busy and idle."""
        return self._open.get(worker_id, 0)

    def open_since(self, worker_id: WorkerId, before_s: float) -> int:
        """How many connections to this worker were made before an instant, loop time, and still stand."""
        return sum(one.worker_id == worker_id and one.made_s < before_s for one in self._connections)

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        oldest_allowed_s = self._loop.time() - self._idle_reuse_s
        for idle in list(self._idle.values()):
            for connection in [c for c in idle if c.idle_since_s < oldest_allowed_s]:
                idle.remove(connection)
                connection.close()

    def abort_all(self) -> None:
        """Break off every connection; who waits for a reply is told that it is lost."""
        for connection in list(self._connections):
            connection.transport.abort()
