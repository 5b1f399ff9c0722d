"""The data plane: listens, decides what a request is, and keeps its connections to their deadlines."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable, Sequence

import structlog

from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import (
    MethodNotAllowed,
    RouterError,
    ShuttingDown,
    TooManyTunnels,
)
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.http1.conversation import Conversation, Limits, Server
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.pool import WRITE_HIGH_WATER_BYTES, Upstreams
from sglang_diffusion_routing.http1.replay import Spools
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.http1.secure import Arrival
from sglang_diffusion_routing.proxy.access import Access
from sglang_diffusion_routing.proxy.asterisk import OptionsAsterisk
from sglang_diffusion_routing.proxy.counters import DataPlaneCounters
from sglang_diffusion_routing.proxy.crowd import Crowd
from sglang_diffusion_routing.proxy.doors import Bounded, Door
from sglang_diffusion_routing.proxy.hedging import copy_stragglers
from sglang_diffusion_routing.proxy.jobs import Jobs
from sglang_diffusion_routing.proxy.limits import limits_of
from sglang_diffusion_routing.proxy.observed import kinds
from sglang_diffusion_routing.proxy.ports import Gallery, JobLocator, JobProbe, JobSaver, Leases
from sglang_diffusion_routing.proxy.routes import TUNNEL, Kind, Route, route
from sglang_diffusion_routing.proxy.shared import Shared
from sglang_diffusion_routing.proxy.story import Stories, Teller
from sglang_diffusion_routing.proxy.work import Work
from sglang_diffusion_routing.settings import Settings

_log = structlog.get_logger(__name__)

TICK_S = 1.0
BACKLOG = 4096
"""A rollout opens all its connections at once; the kernel caps this at net.core.somaxconn."""
_WORK = Kind.WORK
_ALLOW = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class DataPlane:
    """One listener with all that stands behind it.

    Args:
        gallery: shows images as they are made; without one no reply is looked at.
        connector: the way to the workers.
        access: who may do what.
        tellers: tell of requests when they are over; without any nothing is kept for them.
    """

    def __init__(  # noqa: PLR0913 - everything that a data plane has to do with
        self,
        settings: Settings,
        leases: Leases,
        locator: JobLocator,
        probe: JobProbe,
        saver: JobSaver,
        control_path: str,
        gallery: Gallery | None = None,
        *,
        connector: Connector,
        access: Access,
        tellers: Sequence[Teller] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._upstreams = Upstreams(
            connect_timeout_s=settings.connect_timeout_s,
            idle_reuse_s=settings.idle_reuse_s,
            max_connections=settings.max_connections,
            max_head_bytes=settings.max_head_bytes,
            connector=connector,
        )
        self._stories = stories = Stories(leases, tellers) if tellers else None
        leases = leases if stories is None else stories
        self.jobs = Jobs(leases, probe, saver)
        self._access = access
        self._shared = Shared(settings, leases, self._upstreams, self.jobs, locator, control_path, access)
        self._work, self._control_call, self._job_call = kinds(stories, gallery)
        self._trusted = [ipaddress.ip_network(network) for network in settings.trusted_peers]
        self._connections: set[DownstreamConnection] = set()
        self._arrivals: set[Arrival] = set()
        self._crowd = Crowd(settings.max_client_connections, settings.max_connections_per_client)
        self._identity: ssl.SSLContext | None = None
        self._last_left = asyncio.Event()
        self._listeners: list[asyncio.Server] = []
        self._ticker: asyncio.TimerHandle | None = None
        self.limits: Limits = limits_of(settings)
        self.now_s = self._loop.time()
        self.closing = False
        self.port = 0
        self.admin_port: int | None = None

    @property
    def counters(self) -> DataPlaneCounters:
        return self._shared.counters

    @property
    def upstreams(self) -> Upstreams:
        return self._upstreams

    @property
    def spools(self) -> Spools:
        return self._shared.spools

    def open_since(self, worker_id: WorkerId, before_s: float) -> int:
        """How many connections for requests to this worker were made before an instant and still stand."""
        return self._upstreams.open_since(worker_id, before_s)

    async def start(self) -> None:
        """Listen. Raises OSError, with the address as its file name, when an address cannot be had."""
        settings = self._shared.settings
        main: Server = Bounded(self, settings.max_body_bytes) if settings.max_body_bytes else self
        if self._access.guards_work:
            main = Door(main, self._access, on_control=False)
        self.port = await self._listen(main, settings.host, settings.port)
        if settings.admin_port is not None:
            door = Door(self, self._access, on_control=True)
            self.admin_port = await self._listen(door, settings.admin_host, settings.admin_port)
        self._tick()

    async def _listen(self, server: Server, host: str, port: int) -> int:
        """Give the port, which is another one where 0 was asked for."""
        try:
            listener = await self._loop.create_server(self._arriving(server), host, port, backlog=BACKLOG)
        except OSError as error:
            shown = f"[{host}]" if ":" in host else host
            raise OSError(error.errno, error.strerror, f"{shown}:{port}") from None
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    def _arriving(self, server: Server) -> Callable[[], asyncio.Protocol]:
        """Give what makes the protocol of each connection that comes."""
        if self._identity is None:
            return lambda: DownstreamConnection(server)

        def arrival() -> Arrival:
            assert self._identity is not None
            return Arrival(server, self, self._identity)

        return arrival

    def show(self, identity: ssl.SSLContext) -> None:
        """Speak TLS as `identity` with clients that come from now on; those that are there stay.

        Only a data plane that had one before it started can have another.
        """
        self._identity = identity

    def stop_accepting(self) -> None:
        """Take no new connections and no new work; requests under way go on."""
        self.closing = True
        for listener in self._listeners:
            listener.close()
        for arrival in list(self._arrivals):
            arrival.abort()
        for connection in list(self._connections):
            connection.close_if_idle()

    async def drain(self, grace_s: float) -> bool:
        """Wait up to `grace_s` for the requests under way; tell whether all have ended."""
        self._shared.tunnels.restart_all()
        try:
            async with asyncio.timeout(grace_s):
                while self._connections:
                    self._last_left.clear()
                    await self._last_left.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Break off whatever is left."""
        if self._ticker is not None:
            self._ticker.cancel()
        self.stop_accepting()
        for connection in list(self._connections):
            connection.transport.abort()
        for attempt in list(self._shared.attempts):
            attempt.give_up()
        self._upstreams.abort_all()
        self._shared.spools.close()
        await self.jobs.aclose()
        # Aborted transports tell their protocols in the next turns of the loop.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _tick(self) -> None:
        now_s = self.now_s = self._loop.time()
        for connection in list(self._connections):
            connection.tick(now_s)
        for arrival in list(self._arrivals):
            arrival.tick(now_s)
        self._shared.tunnels.tick(now_s, self._shared.settings.tunnel_idle_s)
        self._upstreams.sweep()
        if self._shared.settings.hedge:
            copy_stragglers(self._shared)
        self._ticker = self._loop.call_later(TICK_S, self._tick)

    # what the connections ask

    def joined(self, connection: DownstreamConnection) -> None:
        """Count a connection in; one too many is refused, and aborted when even refusing costs too much."""
        counters, crowd, address = self._shared.counters, self._crowd, connection.peer[0]
        self._connections.add(connection)
        counters.connections += 1
        crowd.enter(address)
        counters.connections_now = crowd.now
        connection.trusted = self._is_trusted(address)
        error = crowd.excess(address, speaks_for_many=connection.trusted)
        if error is not None:
            if crowd.is_flooded(address):
                connection.transport.abort()
            else:
                connection.refuse(error)
        connection.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    def left(self, connection: DownstreamConnection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        if not self._connections:
            self._last_left.set()
        self._crowd.leave(connection.peer[0])
        self._shared.counters.connections_now = self._crowd.now

    def arrived(self, arrival: Arrival) -> bool:
        """Count a connection in whose TLS handshake is to come; one too many gets none: it costs a millisecond."""
        address = arrival.peer[0]
        self._arrivals.add(arrival)
        self._crowd.enter(address)
        self._shared.counters.connections_now = self._crowd.now
        return self._crowd.excess(address, speaks_for_many=self._is_trusted(address)) is None

    def departed(self, arrival: Arrival) -> None:
        """Count it out: it has become a connection, or has gone."""
        self._arrivals.discard(arrival)
        self._crowd.leave(arrival.peer[0])
        self._shared.counters.connections_now = self._crowd.now

    def refused(
        self, error: RouterError, connection: DownstreamConnection | None = None, request_id: bytes = b""
    ) -> None:
        """Count an error reply of the router's own."""
        self._shared.counters.refusals[error.code] += 1
        if connection is None:
            return
        client, shown_id = connection.peer[0], request_id.decode("latin-1")
        self._access.note(error, connection, shown_id)
        _log.debug("request_refused", request_id=shown_id, client=client, code=error.code, status=error.http_status)
        if self._stories is not None and connection.conversation is None:
            self._stories.refused(connection, request_id, error)

    def converse(self, connection: DownstreamConnection, head: RequestHead) -> Conversation:
        """Say who deals with a request."""
        if head.method in {b"CONNECT", b"TRACE"}:
            raise MethodNotAllowed(head.method.decode(), _ALLOW)
        if head.target == b"*":
            return OptionsAsterisk(connection)
        shared = self._shared
        if head.via:
            shared.heads.check_loop(head)
        found = route(head.method, head.path, head.query)
        if found.kind is not _WORK:
            if found.kind is Kind.CONTROL:
                self._access.check_control(connection, head, found)
            call = self._control_call if found.kind is Kind.CONTROL else self._job_call
            return call(shared, connection, head, found)
        if self.closing:
            raise ShuttingDown
        if head.upgrade is not None:
            found = TUNNEL
            if len(shared.tunnels) >= shared.settings.max_tunnels:
                raise TooManyTunnels(len(shared.tunnels))
        if head.idempotency_key is None or head.http_10 or found.safe or found is TUNNEL:
            return self._work(shared, connection, head, found)
        return shared.repeats.join(connection, head) or self._first(connection, head, found)

    def _first(self, connection: DownstreamConnection, head: RequestHead, found: Route) -> Work:
        work = self._work(self._shared, connection, head, found)
        self._shared.repeats.add(work)
        return work

    def _is_trusted(self, peer: str) -> bool:
        if not self._trusted or not peer:
            return False
        address = ipaddress.ip_address(peer.partition("%")[0])
        return any(address in network for network in self._trusted)
