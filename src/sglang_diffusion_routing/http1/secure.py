"""The TLS side of a listener: a handshake with a deadline, then a connection like any other."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from contextlib import suppress
from typing import Protocol, cast

import structlog
from typing_extensions import override

from sglang_diffusion_routing.errors import HttpsOnly
from sglang_diffusion_routing.http1.certificates import HandshakeFailed
from sglang_diffusion_routing.http1.conversation import Server
from sglang_diffusion_routing.http1.deadlines import LINGER_S
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.replies import error_reply
from sglang_diffusion_routing.tasks import spawn

_log = structlog.get_logger(__name__)

_HANDSHAKE = 0x16
"""The first byte of every TLS connection: a record of type handshake (RFC 8446 §5.1)."""


class SecureConnection(DownstreamConnection):
    """One client's connection over TLS, which is never half open: a client that has ended its side has left."""

    __slots__ = ("_below",)

    secure = True

    def __init__(self, server: Server, below: asyncio.Transport) -> None:
        super().__init__(server)
        self._below = below

    @override
    def eof_received(self) -> bool:
        super().eof_received()
        return False

    @override
    def unsent_bytes(self) -> int:
        # What is encrypted already waits a floor below, and is no less unsent.
        return self.transport.get_write_buffer_size() + self._below.get_write_buffer_size()


class Reception(Protocol):
    """Who counts the clients that have come and have not shaken hands yet."""

    def arrived(self, arrival: Arrival) -> bool:
        """Count one in; tell whether it may stay."""

    def departed(self, arrival: Arrival) -> None:
        """Count it out: it has become a connection, or has gone."""


class Arrival(asyncio.Protocol):
    """A TCP connection up to the end of its handshake.

    The handshake begins with the client's first bytes, so that one who speaks plain HTTP can be told so, and one who
    says nothing costs nothing.

    Args:
        server: that of the connection to be. tls: as who the router shows itself.
    """

    __slots__ = ("_below", "_reception", "_refused_s", "_server", "_shaking", "_since_s", "_tls", "peer")

    def __init__(self, server: Server, reception: Reception, tls: ssl.SSLContext) -> None:
        self._server = server
        self._reception = reception
        self._tls = tls
        self._shaking: asyncio.Task[None] | None = None
        self._since_s = server.now_s
        self._refused_s: float | None = None
        self.peer = ("", 0)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            self.peer = (str(peername[0]), int(peername[1]))
        if not self._reception.arrived(self):
            self.abort()

    @override
    def data_received(self, data: bytes) -> None:
        if self._refused_s is not None or self._below.is_closing():
            return
        if data[0] != _HANDSHAKE:
            self._refuse(data)
            return
        self._below.pause_reading()
        self._shaking = spawn(self._shake_hands(data), name="tls-handshake")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._shaking is None:
            self._reception.departed(self)

    def abort(self) -> None:
        """Break off."""
        self._below.abort()

    def tick(self, now_s: float) -> None:
        """Enforce the deadline, that of a request's head; called about once a second."""
        if self._refused_s is not None:
            if now_s - self._refused_s > LINGER_S:
                self.abort()
        elif now_s - self._since_s > self._server.limits.client_head_timeout_s:
            self.abort()

    def _own_socket(self) -> int:
        """Give a descriptor to tell the client by why a handshake failed: the event loop closes its own before that.

        Raises:
            OSError: there is none left, or the connection has ended; its number may be another one's by now.
        """
        if self._below.is_closing():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return os.dup(self._below.get_extra_info("socket").fileno())

    def _refuse(self, data: bytes) -> None:
        """Tell a client that speaks plain HTTP what is wrong; anything else gets no answer."""
        if not data[:1].isalpha():
            self.abort()
            return
        error = HttpsOnly()
        self._server.refused(error)
        self._below.write(error_reply(error, request_id=b"", close=True, to_head=data[:5] == b"HEAD "))
        self._below.write_eof()
        self._refused_s = self._server.now_s

    async def _shake_hands(self, hello: bytes) -> None:
        loop = asyncio.get_running_loop()
        limits = self._server.limits
        try:
            socket_fd = self._own_socket()
        except OSError:
            self.abort()
            self._reception.departed(self)
            return
        try:
            loop.call_soon(_hand_over, self._below, hello)
            transport = await loop.start_tls(
                self._below,
                self,
                self._tls,
                server_side=True,
                # The deadline is kept by `tick`.
                ssl_handshake_timeout=2 * limits.client_head_timeout_s,
                # What is left of a last reply has as long as any other; who takes none of it is cut off by then.
                ssl_shutdown_timeout=limits.stall_timeout_s,
            )
        except OSError as error:
            _log.debug("tls_handshake_failed", client=self.peer[0], why=str(error) or type(error).__name__)
            transport = None
            if isinstance(error, HandshakeFailed):
                with suppress(OSError):
                    os.write(socket_fd, error.alert)
        finally:
            os.close(socket_fd)
            self._reception.departed(self)
        # A connection that was broken off in the handshake comes out of it as if all were well (uvloop, sslproto.pyx).
        if transport is not None and not self._below.is_closing():
            connection = SecureConnection(self._server, self._below)
            transport.set_protocol(connection)
            connection.connection_made(transport)


def _hand_over(below: asyncio.Transport, data: bytes) -> None:
    """Give what has been read already to the protocol that now reads."""
    protocol = below.get_protocol()
    assert not isinstance(protocol, Arrival)
    reader = cast("asyncio.BufferedProtocol", protocol)
    view = memoryview(data)
    while view:
        buffer = memoryview(reader.get_buffer(len(view)))
        size = min(len(view), len(buffer))
        buffer[:size] = view[:size]
        reader.buffer_updated(size)
        view = view[size:]
