"""Tests of how operations are carried out, by the asynchronous transport."""

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO

import pytest

from sglang_diffusion_routing.client.async_transport import AsyncTransport
from sglang_diffusion_routing.client.errors import Unreachable
from sglang_diffusion_routing.client.exchange import Answer, Fetch, Operation, Rest, Send
from sglang_diffusion_routing.client.settings import Access

pytestmark = pytest.mark.loopback


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer /whole, /broken and /refused."""
    path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
    if path == b"/refused":
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
    else:
        body = b"0123456789" if path == b"/whole" else b"0123"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n" + body)
    await writer.drain()
    writer.close()


@pytest.fixture
async def transport() -> AsyncIterator[AsyncTransport]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        transport = AsyncTransport(Access(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), None)
        yield transport
        await transport.aclose()


def get(path: str) -> Operation[Answer]:
    return (yield Send("GET", path))


async def test_an_answer_is_whole_or_none(transport: AsyncTransport) -> None:
    assert (await transport.run(get("/whole"))).body == b"0123456789"
    assert (await transport.run(get("/refused"))).status == 404
    with pytest.raises(Unreachable, match="GET /broken"):
        await transport.run(get("/broken"))


async def test_what_is_fetched_is_written_as_it_comes(transport: AsyncTransport) -> None:
    sink, counts = BytesIO(), list[int]()

    def fetch(path: str) -> Operation[Answer]:
        return (yield Fetch(Send("GET", path), lambda _status, _headers: sink, counts.append))

    assert (await transport.run(fetch("/whole"))).body == b""
    assert (sink.getvalue(), counts[-1]) == (b"0123456789", 10)
    assert (await transport.run(fetch("/refused"))).body == b"no"
    with pytest.raises(Unreachable):
        await transport.run(fetch("/broken"))


async def test_an_operation_is_closed_when_its_caller_is_cancelled(transport: AsyncTransport) -> None:
    resting, closed = asyncio.Event(), asyncio.Event()

    def rest() -> Operation[None]:
        try:
            resting.set()
            yield Rest(60.0)
        finally:
            closed.set()

    async def run() -> None:
        await transport.run(rest())

    running = asyncio.ensure_future(run())
    await resting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert closed.is_set()
