"""Tests of the last images as they are served: from real replies, which stay what they are."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
from PIL import Image

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

SMALL: dict[str, Any] = {"prompt": "a secret", "num_inference_steps": 2, "seed": 7}
WORK: dict[str, dict[str, Any]] = {
    "/v1/images/generations": {**SMALL, "size": "96x64", "response_format": "b64_json"},
    "/v1/diffusion/generate": {**SMALL, "width": 96, "height": 64},
    "/rollout/generate": {**SMALL, "width": 96, "height": 64, "rollout": True},
}


@pytest.fixture
async def gallery(image_worker: SimInThread) -> AsyncIterator[RunningRouter]:
    """A router with one image worker that shows its images."""
    async with running(image_worker.url, thumbnails=8) as router:
        yield router


def shown(router: RunningRouter) -> list[Any]:
    kept = router.app._gallery
    assert kept is not None
    return kept.after(0)


async def made(router: RunningRouter, count: int) -> list[Any]:
    async def look() -> list[Any]:
        return shown(router)

    return await eventually(look, lambda found: len(found) >= count)


@pytest.mark.parametrize("path", WORK)
async def test_an_image_is_served_in_two_sizes(gallery: RunningRouter, path: str) -> None:
    assert (await gallery.client.post(path, json=WORK[path])).status_code == 200
    (one,) = await made(gallery, 1)
    for query, side in (("", 96), ("?size=small", 96), ("?size=large", 96)):
        reply = await gallery.client.get(f"/dashboard/thumbnails/{one.name}{query}")
        assert (reply.status_code, reply.headers["content-type"]) == (200, "image/jpeg")
        assert (reply.headers["cache-control"], reply.headers["x-content-type-options"]) == ("no-store", "nosniff")
        with Image.open(io.BytesIO(reply.content)) as image:
            assert image.size == (side, 64)


async def test_a_gallery_changes_no_reply(image_worker: SimInThread) -> None:
    async def images(**settings: Any) -> list[Any]:
        async with running(image_worker.url, **settings) as router:
            replies = [await router.client.post(path, json=body) for path, body in WORK.items()]
        images, generation, rollout = replies
        return [
            images.json()["data"][0]["b64_json"],
            generation.json()["output_b64"],
            msgpack.unpackb(rollout.content)[0]["generated_output"],
        ]

    assert await images(thumbnails=8) == await images()


async def test_a_reply_with_a_url_shows_nothing(gallery: RunningRouter) -> None:
    body = {**WORK["/v1/images/generations"], "response_format": "url"}
    assert (await gallery.client.post("/v1/images/generations", json=body)).status_code == 200

    async def none() -> int:
        assert gallery.app._gallery is not None
        return gallery.app._gallery.outcomes["none"]

    await eventually(none, lambda count: count == 1)
    assert shown(gallery) == []


async def test_none_are_kept_unless_asked_for(shared_off: RunningRouter) -> None:
    assert shared_off.app._gallery is None
    status, error = await shared_off.get("/dashboard/thumbnails/any")
    assert (status, error["code"], error["name"]) == (404, "unknown_thumbnail", "any")


@pytest.fixture
async def shared_off(image_worker: SimInThread) -> AsyncIterator[RunningRouter]:
    async with running(image_worker.url) as router:
        yield router


@pytest.mark.parametrize("target", ["any?size=huge", "any?size=small&size=large", "a" * 65])
async def test_what_is_not_asked_for_well_is_refused(gallery: RunningRouter, target: str) -> None:
    assert (await gallery.get(f"/dashboard/thumbnails/{target}"))[0] == 400


async def test_a_gallery_goes_with_its_router(image_worker: SimInThread) -> None:
    async with running(image_worker.url, thumbnails=8) as router:
        await router.client.post("/v1/images/generations", json=WORK["/v1/images/generations"])
    assert [task for task in asyncio.all_tasks() if task.get_name() == "read-thumbnails"] == []
