"""Each call's connection; what the calls make of it is tested in test_worker_api.py."""

import asyncio

import httpx2
import pytest

from sglang_diffusion_routing.control.transport import CheckedTransport
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.connect import Connector
from support.connecting import Resolving
from support.raw_worker import answering, reply, serving


def client(connector: Connector) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=CheckedTransport(connector))


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("http://gpu-1:81/x", WorkerUrl("http", "gpu-1", 81)),
        ("http://gpu-1/x", WorkerUrl("http", "gpu-1", 80)),
        ("https://gpu-1/x", WorkerUrl("https", "gpu-1", 443)),
        ("http://[::1]:5/x", WorkerUrl("http", "::1", 5)),
    ],
)
async def test_every_call_has_its_address_resolved(text: str, resolved: WorkerUrl) -> None:
    nobody = Resolving()
    async with client(nobody) as calls:
        for _ in range(2):
            with pytest.raises(ConnectFailed):
                await calls.get(text)
    assert nobody.asked == [resolved, resolved]


async def test_no_connection_is_used_twice() -> None:
    connections = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(reply(200, b"ok"))

    async with serving(count) as url, client(Resolving("127.0.0.1")) as calls:
        for _ in range(3):
            assert (await calls.get(f"http://worker:{url.port}/")).text == "ok"
    assert connections == 3


async def test_the_last_address_decides_when_none_accepts() -> None:
    async with serving(answering(b"")) as url:
        pass
    async with client(Resolving("127.0.0.2", "127.0.0.1")) as calls:
        with pytest.raises(httpx2.ConnectError):
            await calls.get(f"http://worker:{url.port}/")
