"""`httpx2`, blocking and not, with bodies that are made as they are sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx2
import msgpack
import pytest

from clients.conftest import Starting

pytestmark = pytest.mark.e2e

ROLLOUT = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 1}
HALVES = (b'{"prompt": "a fox", "seed": 1, "width": 64, ', b'"height": 64, "num_inference_steps": 1}')
JSON = {"content-type": "application/json"}


def test_both_bodies_are_streamed(url: str) -> None:
    def parts() -> Iterator[bytes]:
        yield from HALVES

    with (
        httpx2.Client(base_url=url, timeout=30) as client,
        client.stream("POST", "/rollout/generate", content=parts(), headers=JSON) as reply,
    ):
        body = b"".join(reply.iter_raw(1000))
    assert (reply.status_code, len(msgpack.unpackb(body))) == (200, 1)


async def test_both_bodies_are_streamed_without_blocking(url: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in HALVES:
            yield part
            await asyncio.sleep(0)

    async with (
        httpx2.AsyncClient(base_url=url, timeout=30) as client,
        client.stream("POST", "/rollout/generate", content=parts(), headers=JSON) as reply,
    ):
        body = b"".join([span async for span in reply.aiter_raw(1000)])
    assert (reply.status_code, len(msgpack.unpackb(body))) == (200, 1)


async def test_hundreds_at_once_over_a_few_connections(url: str) -> None:
    limits = httpx2.Limits(max_connections=8)
    async with httpx2.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        replies = await asyncio.gather(
            *(client.post("/rollout/generate", json={**ROLLOUT, "seed": seed}) for seed in range(200))
        )
    assert [msgpack.unpackb(reply.content)[0]["seed"] for reply in replies] == list(range(200))


def test_a_pool_outlives_the_routers_idle_time(starting: Starting) -> None:
    """A kept connection that the router has closed meanwhile is seen as such, and another one is opened."""
    router = starting("--client-idle-timeout", "100ms")
    limits = httpx2.Limits(keepalive_expiry=None)
    with httpx2.Client(base_url=f"http://127.0.0.1:{router.port}", timeout=30, limits=limits) as client:
        for _ in range(3):
            assert client.post("/rollout/generate", json=ROLLOUT).status_code == 200
            closed_by_the_router(client)


def closed_by_the_router(client: httpx2.Client) -> None:
    """Wait for the end of the kept connection."""
    [connection] = client._transport._pool.connections  # type: ignore[attr-defined]
    stream = connection._connection._network_stream
    stream.get_extra_info("socket").recv(1)
