"""`aiohttp`'s client, as trainers use it for hundreds of rollouts at once."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import msgpack
import pytest

from clients.conftest import Starting
from support.deadlines import eventually

pytestmark = pytest.mark.e2e

SMALL = {"width": 64, "height": 64, "num_inference_steps": 1, "num_outputs_per_prompt": 1}


@pytest.fixture
async def session(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        yield session


async def test_hundreds_at_once_each_get_their_own(session: aiohttp.ClientSession) -> None:
    async def rollout(seed: int) -> tuple[int, int]:
        async with session.post("/rollout/generate", json={"prompt": "a fox", "seed": seed, **SMALL}) as reply:
            [sample] = msgpack.unpackb(await reply.read())
            return reply.status, sample["seed"]

    assert await asyncio.gather(*map(rollout, range(200))) == [(200, seed) for seed in range(200)]


async def test_a_reply_is_read_as_it_comes(session: aiohttp.ClientSession) -> None:
    request = {"prompt": "a fox", "seed": 1, **SMALL}
    async with session.post("/rollout/generate", json=request) as whole:
        expected = await whole.read()
    async with session.post("/rollout/generate", json=request) as reply:
        spans = [span async for span in reply.content.iter_chunked(1000)]
    told, wanted = (msgpack.unpackb(body)[0]["generated_output"] for body in (b"".join(spans), expected))
    assert told == wanted


async def test_a_body_is_sent_as_it_is_made(session: aiohttp.ClientSession) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"prompt": "a fox", "seed": 1, "width": 64, '
        await asyncio.sleep(0)
        yield b'"height": 64, "num_inference_steps": 1}'

    headers = {"content-type": "application/json"}
    async with session.post("/rollout/generate", data=parts(), headers=headers, expect100=True) as reply:
        assert (reply.status, reply.content_type) == (200, "application/msgpack")
        await reply.read()


async def test_a_form_with_a_file_is_an_edit(session: aiohttp.ClientSession) -> None:
    form = aiohttp.FormData({"prompt": "in the snow", "size": "64x64", "model": "sim/qwen-image-edit"})
    form.add_field("image", b"\xff\xd8\xff" * 100_000, filename="fox.jpg", content_type="image/jpeg")
    async with session.post("/v1/images/edits", data=form) as reply:
        assert reply.status == 200, await reply.text()


async def test_a_websocket_is_a_tunnel(session: aiohttp.ClientSession) -> None:
    async with session.ws_connect("/v1/realtime_video/generate") as socket:
        await socket.send_str("{}")
        answer = await socket.receive(timeout=10.0)
        assert answer.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.CLOSE}


async def test_who_leaves_while_queued_is_forgotten(starting: Starting) -> None:
    router = starting("--max-concurrency-per-worker", "1", overhead_seconds=0.5)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{router.port}") as session:

        async def rollout() -> int:
            async with session.post("/rollout/generate", json={"prompt": "a fox", "seed": 1, **SMALL}) as reply:
                return reply.status

        first = asyncio.ensure_future(rollout())
        await asyncio.to_thread(eventually, router.in_flight, lambda counts: any(counts.values()))
        waiting = [asyncio.ensure_future(rollout()) for _ in range(5)]
        await asyncio.to_thread(eventually, router.queued, lambda queued: queued == 5)
        for one in waiting:
            one.cancel()
        await asyncio.to_thread(eventually, router.queued, lambda queued: queued == 0)
        assert await first == 200
    router.wait_until_idle()
