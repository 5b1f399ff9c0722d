"""Tests of the stream of events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from sglang_diffusion_routing.api.stream import MAX_WATCHERS, SHORTEST_S, Shown
from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

QUICK = "/events?interval_s=0.1"
IMAGE = {"prompt": "a secret", "size": "64x64", "response_format": "b64_json", "num_inference_steps": 2}


@asynccontextmanager
async def frames(router: RunningRouter, target: str = QUICK) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Give the frames of a stream as they come."""
    async with router.client.stream("GET", target) as reply:
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")

        async def read() -> AsyncIterator[dict[str, Any]]:
            async for line in reply.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

        yield read()


async def until(stream: AsyncIterator[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """Give the first frame that has something under this name."""
    async for frame in stream:
        if frame[wanted]:
            return frame
    raise AssertionError(f"the stream ended without {wanted}")


async def test_the_first_frame_has_everything(router: RunningRouter, image_worker: SimInThread) -> None:
    async with frames(router) as stream:
        first = await anext(stream)

    assert first["reset"] is True
    assert abs(first["now"] - time.time()) < 60.0
    assert [(row["url"], row["status"], row["is_dead"]) for row in first["workers"]] == [
        (image_worker.url, "active", False)
    ]
    assert [(url, before, now) for _, url, before, now in first["changes"]] == [
        (image_worker.url, None, "joining"),
        (image_worker.url, "joining", "active"),
    ]
    assert (first["paused"], first["queue"]["requests"], first["running"], first["bars"]) == (False, 0, [], [])


async def test_later_frames_have_what_has_changed(router: RunningRouter, image_worker: SimInThread) -> None:
    async with frames(router) as stream:
        await anext(stream)
        second = await anext(stream)
        assert (second["reset"], second["workers"], second["changes"]) == (False, [], [])

        sent = await router.client.post("/v1/images/generations", json={"prompt": "a", "size": "64x64"})
        assert sent.status_code == 200
        url, route, began, ended, _, weights, result, status, _ = (await until(stream, "bars"))["bars"][0]
        assert (url, weights, result, status) == (image_worker.url, "0", "ok", 200)
        assert began <= ended
        assert isinstance(route, str)

        await router.ask("PUT", f"/workers/{quote(image_worker.url, safe='')}", json={"state": "drained"})
        changed = await until(stream, "changes")
        assert changed["changes"][0][1:] == [image_worker.url, "active", "draining"]
        assert [row["status"] for row in changed["workers"]] == ["draining"]

        await router.ask("DELETE", f"/workers/{quote(image_worker.url, safe='')}?force=true")
        assert (await until(stream, "removed"))["removed"] == [image_worker.url]


async def test_one_watcher_too_many_is_refused(empty: RunningRouter) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(MAX_WATCHERS):
            await anext(await stack.enter_async_context(frames(empty)))
        status, error = await empty.get("/events")
        assert (status, error["code"]) == (503, "too_many_watchers")

    async def again() -> int:
        async with empty.client.stream("GET", QUICK) as reply:
            return reply.status_code

    # Those who have left are noticed when there is something to tell them.
    await eventually(again, lambda status: status == 200)


@pytest.mark.parametrize("interval", ["0", "11", "often", "nan"])
async def test_an_interval_out_of_bounds_is_refused(empty: RunningRouter, interval: str) -> None:
    assert (await empty.get(f"/events?interval_s={interval}"))[0] == 400


async def test_the_stream_ends_with_the_router(empty: RunningRouter) -> None:
    async with frames(empty, "/events?interval_s=10") as stream:
        await anext(stream)
        empty.app._fleet.watch.close()
        assert [frame["reset"] async for frame in stream] == []


async def test_images_are_told_once_with_the_bar_that_they_belong_to(image_worker: SimInThread) -> None:
    async with running(image_worker.url, thumbnails=4) as router, frames(router) as stream:
        assert (await anext(stream))["thumbnails"] == []
        await router.client.post("/v1/images/generations", json=IMAGE)
        bar = (frame := await until(stream, "bars"))["bars"][0]
        (made,) = (frame if frame["thumbnails"] else await until(stream, "thumbnails"))["thumbnails"]
        assert made[2:] == [image_worker.url, "images_generations", "0", bar[8], 64, 64]
        assert made[1] >= bar[2]
        assert (await anext(stream))["thumbnails"] == []
        async with frames(router) as other:
            assert [one[0] for one in (await anext(other))["thumbnails"]] == [made[0]]


async def test_one_look_at_the_workers_serves_all_who_watch(router: RunningRouter) -> None:
    shown = Shown(router.app._plane())
    looks = await asyncio.gather(*(shown.look() for _ in range(5)))
    assert all(rows is looks[0][0] for rows, _ in looks)

    await asyncio.sleep(SHORTEST_S)
    later, _ = await shown.look()
    assert later is not looks[0][0]
    assert later == looks[0][0]
