"""A listener whose conversations the test leads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from http1.peers import Peer, connected, eventually
from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.http1.conversation import Conversation, Limits
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.settings import Settings


class Heard:
    """A conversation that answers nothing by itself and writes down what it is told.

    makes_progress: whether its other side takes what it is sent.
    """

    def __init__(self, connection: DownstreamConnection, head: RequestHead) -> None:
        self.connection = connection
        self.head = head
        self.survives_half_close = False
        self.reply_begun = False
        self.spans: list[bytes] = []
        self.done = False
        self.events: list[str] = []
        self.tunnelled = b""
        self.makes_progress = True

    @property
    def body(self) -> bytes:
        return b"".join(self.spans)

    def answer(self, body: bytes = b"ok", *, close: bool | None = None) -> None:
        """Send a whole reply and end the conversation."""
        last = self.connection.must_close() if close is None else close
        self.connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        self.connection.reply_done(close=last)

    # Conversation

    def client_body(self, span: bytes, done: bool) -> None:
        assert not self.done, "a body after its end"
        self.spans.append(span)
        self.done = done

    def is_stalled(self, now_s: float, stall_s: float) -> bool:
        return not self.makes_progress

    def stalled(self, stall_s: float) -> None:
        self.events.append(f"stalled for {stall_s:g}")

    def client_gone(self) -> None:
        self.events.append("gone")

    def client_full(self) -> None:
        self.events.append("full")

    def client_writable(self) -> None:
        self.events.append("writable")

    def client_tunnel(self, data: bytes) -> None:
        self.tunnelled += data

    def client_tunnel_ended(self) -> None:
        self.events.append("tunnel ended")


Answer = Callable[[DownstreamConnection, RequestHead], Conversation]


class Listener:
    """Satisfies `Server`. Its clock stands still until the test moves it; `tick` is the test's to call."""

    def __init__(self, answer: Answer | None, settings: Settings) -> None:
        self.limits: Limits = settings
        self.now_s = 1000.0
        self.closing = False
        self.connections: list[DownstreamConnection] = []
        self.gone: list[DownstreamConnection] = []
        self.clients: list[Peer] = []
        self.heard: list[Heard] = []
        self.refusals: list[RouterError] = []
        self.refuses_with: RouterError | None = None
        self._answer = answer
        self.port = 0

    def converse(self, connection: DownstreamConnection, head: RequestHead) -> Conversation:
        if self.refuses_with is not None:
            raise self.refuses_with
        if self._answer is not None:
            return self._answer(connection, head)
        self.heard.append(Heard(connection, head))
        return self.heard[-1]

    def refused(
        self, error: RouterError, connection: DownstreamConnection | None = None, request_id: bytes = b""
    ) -> None:
        self.refusals.append(error)

    def joined(self, connection: DownstreamConnection) -> None:
        self.connections.append(connection)

    def left(self, connection: DownstreamConnection) -> None:
        self.gone.append(connection)

    # the test's side

    async def connect(self, *, receive_buffer: int | None = None) -> Peer:
        """Open a client's connection, and wait until it is known here."""
        known = len(self.connections)
        peer = await connected(self.port, receive_buffer=receive_buffer)
        self.clients.append(peer)
        await eventually(lambda: len(self.connections) > known)
        return peer

    async def hears(self, count: int) -> Heard:
        """Wait for the conversation of this number, from 1."""
        await eventually(lambda: len(self.heard) >= count)
        return self.heard[count - 1]

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and let every connection look at its deadlines."""
        self.now_s += seconds
        for connection in self.connections:
            if connection not in self.gone:
                connection.tick(self.now_s)


@asynccontextmanager
async def listening(answer: Answer | None = None, settings: Settings | None = None) -> AsyncIterator[Listener]:
    """Listen on a free port; at the end every connection is closed."""
    listener = Listener(answer, settings or Settings())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: DownstreamConnection(listener), "127.0.0.1", 0)
    async with server:
        listener.port = server.sockets[0].getsockname()[1]
        try:
            yield listener
        finally:
            for client in listener.clients:
                await client.drop()
            for connection in listener.connections:
                connection.transport.abort()
    await eventually(lambda: len(listener.gone) == len(listener.connections))
