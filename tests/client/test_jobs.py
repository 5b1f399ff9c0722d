"""Tests of videos through both clients."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_diffusion_routing.client import JobFailed, Refused, TookTooLong
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.any_client import KINDS, AnyClient, connected
from support.running import running

pytestmark = pytest.mark.loopback

VIDEO: dict[str, Any] = {"size": "64x64", "num_inference_steps": 1, "num_frames": 5}


@pytest.fixture(scope="module")
def worker() -> Iterator[SimInThread]:
    with SimInThread(SimSettings(model="wan")) as worker:
        yield worker


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, worker: SimInThread) -> AsyncIterator[AnyClient]:
    async with running(worker.url) as router, connected(request.param, str(router.client.base_url)) as client:
        yield client


async def test_a_video_from_its_prompt_to_its_file(client: AnyClient, tmp_path: Path) -> None:
    seen: list[str] = []
    counts: list[tuple[int, int | None]] = []
    job = await client.call("videos.create", "a boat", **VIDEO)
    ended = await client.call(
        "videos.wait", job["id"], poll_s=0.01, on_progress=lambda job: seen.append(job["status"]), timeout_s=30
    )
    path = await client.call(
        "videos.download", job["id"], tmp_path / "boat.mp4", on_bytes=lambda *count: counts.append(count)
    )

    assert (ended["status"], seen[-1]) == ("completed", "completed")
    assert path.read_bytes()[4:8] == b"ftyp"
    assert counts[-1] == (path.stat().st_size, path.stat().st_size)
    assert (await client.call("videos.retrieve", job["id"]))["id"] == job["id"]
    assert job["id"] in {listed["id"] for listed in (await client.call("videos.list", limit="5"))["data"]}
    assert (await client.call("videos.delete", job["id"]))["status"] == "deleted"
    with pytest.raises(Refused, match="404"):
        await client.call("videos.retrieve", job["id"])


async def test_a_picture_is_sent_along(client: AnyClient, tmp_path: Path) -> None:
    (tmp_path / "first.png").write_bytes(b"png")

    # The model makes videos from text alone, and says so once it has the picture.
    with pytest.raises(Refused, match="input_reference is not supported"):
        await client.call("videos.create", "a boat", files={"input_reference": tmp_path / "first.png"}, **VIDEO)


async def test_a_video_that_fails_is_an_error(client: AnyClient, worker: SimInThread) -> None:
    worker.worker.faults.broken = True
    try:
        job = await client.call("videos.create", "a boat", **VIDEO)
        with pytest.raises(JobFailed):
            await client.call("videos.wait", job["id"], poll_s=0.01)
    finally:
        worker.worker.faults.broken = False


async def test_a_video_that_takes_too_long_goes_on(client: AnyClient) -> None:
    job = await client.call("videos.create", "a boat", **{**VIDEO, "num_inference_steps": 50, "num_frames": 81})
    with pytest.raises(TookTooLong):
        await client.call("videos.wait", job["id"], poll_s=0.01, timeout_s=0.0)

    assert (await client.call("videos.wait", job["id"], poll_s=0.02))["status"] == "completed"
