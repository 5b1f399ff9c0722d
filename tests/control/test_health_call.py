import asyncio
import socket

import pytest

from sglang_diffusion_routing.control.health_call import REPLY_MAX_BYTES, BrokenReply, ask_health
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.connect import Connector
from support.raw_worker import answering, reply, serving


async def ask(url: WorkerUrl, timeout_s: float = 5.0) -> tuple[int, bytes]:
    return await ask_health(Connector(), url, timeout_s=timeout_s, connect_timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (reply(200, b'{"status":"ok"}'), (200, b'{"status":"ok"}')),
        (reply(503, b""), (503, b"")),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, b"ok")),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", (200, b"until the end")),
        (b"HTTP/1.1 103 Hints\r\n\r\n" + reply(200, b"ok"), (200, b"ok")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
    ],
)
async def test_the_status_and_the_body_are_read_however_they_are_framed(raw: bytes, answer: tuple[int, bytes]) -> None:
    async with serving(answering(raw)) as url:
        assert await ask(url) == answer


async def test_the_request_is_a_plain_get_that_closes() -> None:
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(reply(200, b""), seen)) as url:
        await ask(url)
        assert seen == [(f"GET /health HTTP/1.1\r\nhost: {url.authority}\r\nconnection: close\r\n\r\n".encode(), b"")]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 103 Hints\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        reply(200, b"x" * REPLY_MAX_BYTES),
    ],
)
async def test_a_broken_reply_is_named(raw: bytes) -> None:
    async with serving(answering(raw)) as url:
        with pytest.raises(BrokenReply):
            await ask(url)


async def test_silence_ends_when_its_time_is_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as url:
        with pytest.raises(TimeoutError):
            await ask(url, 0.05)


async def test_a_refused_connection_is_told_from_a_time_out() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed):
            await ask(WorkerUrl("http", "127.0.0.1", held.getsockname()[1]))
