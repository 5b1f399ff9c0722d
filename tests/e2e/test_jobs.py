"""Jobs over a fleet of simulated workers, as clients of the API see them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

WORKERS = 5
VIDEO = {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1, "num_frames": 5}
MESH = {"prompt": "a boat", "input_image": "https://example.org/boat.png", "num_inference_steps": 1}
FORM = {"files": {"prompt": (None, "a boat"), "size": (None, "64x64"), "num_inference_steps": (None, "1")}}


@pytest.fixture(scope="module")
def video_workers() -> Iterator[list[SimInThread]]:
    with ExitStack() as stack:
        settings = SimSettings(model="wan", overhead_seconds=0.05)
        yield [stack.enter_context(SimInThread(settings)) for _ in range(WORKERS)]


@pytest.fixture(scope="module")
def mesh_workers() -> Iterator[list[SimInThread]]:
    with ExitStack() as stack:
        yield [stack.enter_context(SimInThread(SimSettings(model="mesh"))) for _ in range(WORKERS)]


@pytest.fixture
async def videos(video_workers: list[SimInThread]) -> AsyncIterator[RunningRouter]:
    """A router in front of five video workers."""
    async with running(*(worker.url for worker in video_workers)) as router:
        yield router


@pytest.fixture
async def meshes(mesh_workers: list[SimInThread]) -> AsyncIterator[RunningRouter]:
    async with running(*(worker.url for worker in mesh_workers)) as router:
        yield router


async def create(router: RunningRouter, path: str = "/v1/videos", **options: Any) -> tuple[str, str]:
    """Create a job; give its id and its worker."""
    response = await router.client.post(path, **(options or {"json": VIDEO}))
    assert response.status_code == 200, response.text
    return response.json()["id"], response.headers["x-sglang-router-worker"]


async def running_jobs(router: RunningRouter) -> list[tuple[int, int]]:
    """Give each worker's jobs and leases."""
    _, listed = await router.get("/workers")
    return [(worker["jobs"], worker["active_requests"]) for worker in listed["workers"]]


async def completed(router: RunningRouter, job_id: str, kind: str = "videos") -> dict[str, Any]:
    """Ask until a job is completed."""
    _, job = await eventually(
        lambda: router.get(f"/v1/{kind}/{job_id}"), lambda answer: answer[1]["status"] == "completed"
    )
    assert isinstance(job, dict)
    return job


async def until_idle(router: RunningRouter) -> None:
    await eventually(lambda: running_jobs(router), lambda counts: set(counts) == {(0, 0)})


async def refused(router: RunningRouter, target: str, method: str = "GET") -> tuple[int, str, httpx2.Headers]:
    response = await router.client.request(method, target)
    return response.status_code, response.json()["code"], response.headers


class TestSpread:
    @pytest.mark.parametrize(
        ("path", "options"),
        [("/v1/videos", {"json": VIDEO}), ("/generate_video", {"json": VIDEO}), ("/v1/videos", FORM)],
        ids=["json", "older name", "multipart"],
    )
    @pytest.mark.parametrize("at_once", [True, False])
    async def test_ten_videos_over_five_workers_run_two_each(
        self, videos: RunningRouter, path: str, options: dict[str, Any], *, at_once: bool
    ) -> None:
        if at_once:
            made = await asyncio.gather(*(create(videos, path, **options) for _ in range(10)))
        else:
            made = [await create(videos, path, **options) for _ in range(10)]
        assert await running_jobs(videos) == [(2, 2)] * WORKERS
        for job_id, _ in made:
            await completed(videos, job_id)
        await until_idle(videos)

    @pytest.mark.parametrize(
        "options", [{"json": MESH}, {"files": {"image": ("a.png", b"boat"), "prompt": (None, "a")}}]
    )
    async def test_ten_meshes_too(self, meshes: RunningRouter, options: dict[str, Any]) -> None:
        made = await asyncio.gather(*(create(meshes, "/v1/meshes", **options) for _ in range(10)))
        assert await running_jobs(meshes) == [(2, 2)] * WORKERS
        for job_id, _ in made:
            await completed(meshes, job_id, "meshes")
        await until_idle(meshes)

    async def test_jobs_end_also_when_nobody_asks(self, videos: RunningRouter) -> None:
        for _ in range(WORKERS):
            await create(videos)
        assert await running_jobs(videos) == [(1, 1)] * WORKERS
        await until_idle(videos)

    async def test_a_video_is_no_work_for_an_image_worker(self) -> None:
        with SimInThread() as images:
            async with running(images.url) as router:
                status, error = await router.post("/v1/videos", VIDEO)
        assert (status, error["code"]) == (400, "no_capable_worker")
        assert error["error"] == "No video-capable workers available in current worker pool."


class TestOwner:
    async def test_whatever_is_asked_of_a_job_goes_to_its_worker(self, videos: RunningRouter) -> None:
        made = await asyncio.gather(*(create(videos) for _ in range(WORKERS)))
        for job_id, worker in made:
            await completed(videos, job_id)
            for target in (f"/v1/videos/{job_id}", f"/v1/videos/{job_id}/content"):
                response = await videos.client.get(target)
                assert (response.status_code, response.headers["x-sglang-router-worker"]) == (200, worker)
            for name in ("video_id", "id", "job_id"):
                response = await videos.client.get(f"/v1/videos?{name}={job_id}")
                assert (response.status_code, response.headers["x-sglang-router-worker"]) == (200, worker)

    async def test_an_id_in_the_query_that_nobody_knows_is_a_404(self, videos: RunningRouter) -> None:
        assert (await refused(videos, "/v1/videos?video_id=nobody"))[:2] == (404, "unknown_job")

    async def test_content_comes_in_ranges(self, videos: RunningRouter) -> None:
        job_id, _ = await create(videos)
        await completed(videos, job_id)
        content = f"/v1/videos/{job_id}/content"
        whole = await videos.client.get(content)
        assert (whole.headers["content-type"], whole.headers["accept-ranges"]) == ("video/mp4", "bytes")
        part = await videos.client.get(content, headers={"Range": "bytes=4-11"})
        assert (part.status_code, part.content) == (206, whole.content[4:12])
        assert part.headers["content-range"] == f"bytes 4-11/{len(whole.content)}"
        same = await videos.client.get(content, headers={"Range": "bytes=4-11", "If-Range": whole.headers["etag"]})
        assert (same.status_code, same.content) == (206, part.content)
        beyond = await videos.client.get(content, headers={"Range": f"bytes={len(whole.content)}-"})
        assert beyond.status_code == 416

    async def test_content_that_is_not_there_yet_is_the_worker_s_404(self, video_workers: list[SimInThread]) -> None:
        slow = SimSettings(model="wan", overhead_seconds=2.0)
        with SimInThread(slow) as worker:
            async with running(worker.url, video_workers[0].url) as router:
                made = [await create(router) for _ in range(2)]
                (job_id,) = [name for name, owner in made if owner == worker.url]
                response = await router.client.get(f"/v1/videos/{job_id}/content")
                assert (response.status_code, response.json()) == (404, {"detail": "Generation is still in-progress"})

    async def test_a_router_that_knows_nothing_of_a_job_asks_the_workers(
        self, videos: RunningRouter, video_workers: list[SimInThread]
    ) -> None:
        job_id, owner = await create(videos)
        await completed(videos, job_id)
        async with running(*(worker.url for worker in video_workers)) as other:
            response = await other.client.get(f"/v1/videos/{job_id}/content")
            assert (response.status_code, response.headers["x-sglang-router-worker"]) == (200, owner)

    async def test_the_content_of_an_image_comes_from_its_worker(self) -> None:
        with SimInThread() as first, SimInThread() as second:
            async with running(first.url, second.url) as router:
                body = {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1, "response_format": "url"}
                for _ in range(4):
                    made = await router.client.post("/v1/images/generations", json=body)
                    target = made.json()["data"][0]["url"]
                    content = await router.client.get(target)
                    assert (content.status_code, content.headers["content-type"]) == (200, "image/jpeg")
                    assert content.headers["x-sglang-router-worker"] == made.headers["x-sglang-router-worker"]
                assert (await refused(router, "/v1/images/nobody/content"))[:2] == (404, "unknown_job")


class TestDeletion:
    async def test_a_deleted_job_is_gone_and_its_worker_charged_until_it_has_ended(self, videos: RunningRouter) -> None:
        job_id, _ = await create(videos)
        response = await videos.client.delete(f"/v1/videos/{job_id}")
        assert (response.status_code, response.json()["status"]) == (200, "deleted")
        assert (await videos.client.get(f"/v1/videos/{job_id}")).status_code == 404
        await until_idle(videos)

    async def test_one_that_nobody_knows_is_a_404(self, videos: RunningRouter) -> None:
        assert (await refused(videos, "/v1/videos/nobody", "DELETE"))[:2] == (404, "unknown_job")


class TestList:
    async def test_every_job_is_listed_once_page_by_page(self, videos: RunningRouter) -> None:
        made = await asyncio.gather(*(create(videos) for _ in range(10)))
        listed: list[str] = []
        query = "limit=3"
        while True:
            status, page = await videos.get(f"/v1/videos?{query}")
            rows = [row["id"] for row in page["data"]]
            assert (status, page["first_id"], page["last_id"]) == (200, rows[0], rows[-1])
            listed += rows
            if not page["has_more"]:
                break
            query = f"limit=3&after={page['last_id']}"
        assert len(set(listed)) == len(listed)
        # Other tests have left theirs on the same workers; the newest are ours.
        assert set(listed) >= {job_id for job_id, _ in made}
        _, oldest_first = await videos.get("/v1/videos?order=asc&limit=100")
        times = [row["created_at"] for row in oldest_first["data"]]
        assert times == sorted(times)


class TestOwnerAway:
    @pytest.fixture
    async def pair(self) -> AsyncIterator[tuple[RunningRouter, str, str]]:
        """A router with two workers of its own, and a completed job: its id and its worker."""
        settings = SimSettings(model="wan", overhead_seconds=0.05)
        with SimInThread(settings) as first, SimInThread(settings) as second:
            async with running(first.url, second.url) as router:
                job_id, owner = await create(router)
                await completed(router, job_id)
                await until_idle(router)
                yield router, job_id, owner

    async def test_a_sleeping_owner_is_a_503(self, pair: tuple[RunningRouter, str, str]) -> None:
        router, job_id, owner = pair
        await router.post("/release_memory_occupation")
        await router.until_status(owner, "sleeping")
        status, code, headers = await refused(router, f"/v1/videos/{job_id}/content")
        assert (status, code) == (503, "owner_unavailable")
        assert int(headers["retry-after"]) >= 1
        await router.post("/resume_memory_occupation")
        assert (await router.client.get(f"/v1/videos/{job_id}/content")).status_code == 200

    async def test_a_quarantined_owner_is_a_503(self, pair: tuple[RunningRouter, str, str]) -> None:
        router, job_id, owner = pair
        await router.ask("PUT", f"/workers/{owner}", json={"is_dead": True})
        status, code, headers = await refused(router, f"/v1/videos/{job_id}")
        assert (status, code, "retry-after" in headers) == (503, "owner_unavailable", True)

    async def test_a_removed_owner_is_a_410_that_names_it(self, pair: tuple[RunningRouter, str, str]) -> None:
        router, job_id, owner = pair
        assert (await router.ask("DELETE", f"/workers/{owner}"))[0] == 200
        for method, target in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            response = await router.client.request(method, f"/v1/videos/{job_id}{target}")
            assert (response.status_code, response.json()["code"]) == (410, "job_owner_gone")
            assert owner in response.json()["error"]
        response = await router.client.get(f"/v1/videos?video_id={job_id}")
        assert response.status_code == 410

    async def test_a_worker_that_comes_back_is_another_one(self, pair: tuple[RunningRouter, str, str]) -> None:
        router, job_id, owner = pair
        await router.ask("DELETE", f"/workers/{owner}")
        await router.post("/workers", {"url": owner})
        await router.until_status(owner, "active")
        assert (await refused(router, f"/v1/videos/{job_id}"))[:2] == (410, "job_owner_gone")


class TestDrain:
    async def test_a_removal_waits_for_the_jobs(self) -> None:
        with SimInThread(SimSettings(model="wan", overhead_seconds=0.5)) as slow:
            async with running(slow.url) as router:
                job_id, owner = await create(router)
                status, answer = await router.ask("DELETE", f"/workers/{owner}")
                assert (status, answer["status"]) == (202, "draining")
                assert (await router.get(f"/v1/videos/{job_id}"))[1]["status"] in {"queued", "in_progress"}
                assert (await router.worker(owner))["status"] == "draining"
                await eventually(lambda: router.get("/workers"), lambda answer: answer[1]["workers"] == [])
                job = slow.worker.videos.get(job_id)
                assert job is not None
                assert job.shown["status"] == "completed"
                assert (await refused(router, f"/v1/videos/{job_id}"))[:2] == (410, "job_owner_gone")

    async def test_a_refit_waits_for_the_jobs(self) -> None:
        with SimInThread(SimSettings(model="wan", overhead_seconds=0.5)) as slow:
            async with running(slow.url) as router:
                job_id, _ = await create(router)
                before = slow.worker.model.transformer_checksum
                refit = {"model_path": "sim/better", "weight_version": "v1"}
                status, answer = await router.post("/update_weights_from_disk", refit)
                assert (status, answer["success"]) == (200, True)
                job = slow.worker.videos.get(job_id)
                assert job is not None
                assert (job.shown["status"], job.weights) == ("completed", before)
                assert slow.worker.model.transformer_checksum != before
