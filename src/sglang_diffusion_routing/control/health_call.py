"""Ask one worker for its health over a bare connection: the only call that every worker gets every few seconds.

Through an HTTP client a probe costs 0.55 ms of CPU, and 1,000 workers take 6 % of a core from the data plane; this way
it costs 0.16 ms (200 workers probed every second, router CPU over 10 s, two shared cores).
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools
from typing_extensions import override

from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.http1.connect import Connector

REPLY_MAX_BYTES = 16 * 1024
"""A health reply has some tens of bytes; an error page has a few thousand."""


class BrokenReply(Exception):
    """The connection ended before the reply was whole, or what came was not HTTP, or too much."""


class _HealthCall(asyncio.Protocol):
    """One request and its reply."""

    def __init__(self, request: bytes) -> None:
        self.reply: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._received = 0
        self._head_done = False
        self._framed = False
        self._transport: asyncio.Transport | None = None

    # asyncio

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > REPLY_MAX_BYTES:
            self._fail(f"the reply is longer than {REPLY_MAX_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the reply is not HTTP: {error}")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_done and not self._framed and exc is None:
            self.on_message_complete()
        self._fail("the connection ended before the reply was whole")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._framed = self._framed or name.lower() in {b"content-length", b"transfer-encoding"}

    def on_headers_complete(self) -> None:
        self._head_done = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._head_done and not self.reply.done():
            self.reply.set_result((self._parser.get_status_code(), bytes(self._body)))

    def _fail(self, why: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(BrokenReply(why))
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def ask_health(
    connector: Connector, url: WorkerUrl, *, timeout_s: float, connect_timeout_s: float, key: str | None = None
) -> tuple[int, bytes]:
    """Send `GET /health` and give the reply's status and body.

    Args:
        key: that the worker wants, None when it wants none.

    Raises:
        ConnectFailed: nobody listens there, or the address is refused.
        TimeoutError: no connection, or no whole reply, in time.
        BrokenReply: the connection ended early, or the reply is no HTTP.
    """
    line = "" if key is None else f"authorization: Bearer {key}\r\n"
    request = f"GET /health HTTP/1.1\r\nhost: {url.authority}\r\n{line}connection: close\r\n\r\n".encode()
    async with asyncio.timeout(timeout_s):
        async with asyncio.timeout(connect_timeout_s):
            # The limit is kept here, where a time-out can be told from a refusal.
            call = await connector.open(url, lambda: _HealthCall(request), timeout_s=2 * connect_timeout_s)
        try:
            return await call.reply
        finally:
            call.close()
            if call.reply.done() and not call.reply.cancelled():
                call.reply.exception()
