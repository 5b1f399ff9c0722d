"""Tests of videos through the asynchronous client: that a wait can be given up."""

import asyncio

import pytest

from sglang_diffusion_routing.client import AsyncClient
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.running import running

pytestmark = pytest.mark.loopback


async def test_a_wait_can_be_given_up() -> None:
    with SimInThread(SimSettings(model="wan", overhead_seconds=30)) as worker:
        async with running(worker.url) as router, AsyncClient(str(router.client.base_url)) as client:
            job = await client.videos.create("a boat", size="64x64", num_inference_steps=1, num_frames=5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.videos.wait(job["id"], poll_s=0.01)
            assert (await client.videos.retrieve(job["id"]))["status"] in {"queued", "in_progress"}
