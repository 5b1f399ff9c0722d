"""OpenAI's Python client, unmodified, as `OpenAI(base_url=ROUTER/v1)` and as `AsyncOpenAI`."""

import asyncio
import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from clients.conftest import Starting
from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.deadlines import eventually
from support.router import RouterProcess

pytestmark = [
    pytest.mark.e2e,
    # The client says so of OpenAI's own service.
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
]

MODEL = "sim/stable-diffusion-3-medium"
EDITING_MODEL = "sim/qwen-image-edit"
SMALL: dict[str, Any] = {"model": MODEL, "size": "64x64", "extra_body": {"num_inference_steps": 2, "seed": 3}}
VIDEO: dict[str, Any] = {"size": "64x64", "extra_body": {"num_frames": 5, "num_inference_steps": 2}}
JPEG = b"\xff\xd8\xff"


@pytest.fixture
def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def image_of(client: OpenAI, prompt: str = "a fox") -> bytes:
    made = client.images.generate(prompt=prompt, response_format="b64_json", **SMALL)
    return base64.b64decode(made.data[0].b64_json)


class TestImages:
    def test_come_as_base64_and_are_those_of_the_worker(self, client: OpenAI, workers: dict[str, SimInThread]) -> None:
        made = client.images.generate(prompt="a fox", n=2, response_format="b64_json", **SMALL)
        straight = OpenAI(base_url=f"{workers['sd3'].url}/v1", api_key="none")
        expected = straight.images.generate(prompt="a fox", n=2, response_format="b64_json", **SMALL)
        assert [one.b64_json for one in made.data] == [one.b64_json for one in expected.data]
        assert base64.b64decode(made.data[0].b64_json).startswith(JPEG)

    def test_come_as_links_that_lead_back_through_the_router(self, client: OpenAI, url: str) -> None:
        made = client.images.generate(prompt="a fox", n=2, response_format="url", **SMALL)
        files = [httpx2.get(f"{url}{one.url}") for one in made.data]
        assert [(file.status_code, file.content[:3]) for file in files] == [(200, JPEG)] * 2

    @pytest.mark.parametrize("images", [1, 2])
    def test_are_edited(self, client: OpenAI, images: int) -> None:
        original = image_of(client)
        files = [(f"{number}.jpg", io.BytesIO(original), "image/jpeg") for number in range(images)]
        made = client.images.edit(
            image=files if images > 1 else files[0],
            prompt="in the snow",
            response_format="b64_json",
            **{**SMALL, "model": EDITING_MODEL},
        )
        assert base64.b64decode(made.data[0].b64_json).startswith(JPEG)

    def test_tell_where_they_were_made(self, client: OpenAI, workers: dict[str, SimInThread]) -> None:
        made = client.images.with_raw_response.generate(prompt="a fox", response_format="b64_json", **SMALL)
        assert made.headers["x-sglang-router-worker"] == workers["sd3"].url
        assert made.headers["x-sglang-router-weight-version"] == "0"
        assert made.parse()._request_id == made.headers["x-request-id"]


class TestVideos:
    def test_are_made_watched_listed_fetched_and_deleted(self, client: OpenAI, tmp_path: Path) -> None:
        created = client.videos.create(prompt="a boat", **VIDEO)
        assert created.status in {"queued", "in_progress", "completed"}
        video = client.videos.poll(created.id, poll_interval_ms=20)
        assert (video.id, video.status, video.progress) == (created.id, "completed", 100)
        assert client.videos.retrieve(video.id).status == "completed"
        assert video.id in [one.id for one in client.videos.list()]
        content = client.videos.download_content(video.id)
        with client.videos.with_streaming_response.download_content(video.id) as streamed:
            streamed.stream_to_file(tmp_path / "boat.mp4", chunk_size=1000)
        assert content.read() == (tmp_path / "boat.mp4").read_bytes()
        assert content.content[4:8] == b"ftyp"
        assert client.videos.delete(video.id).id == video.id
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)

    def test_are_made_and_waited_for_in_one_call(self, client: OpenAI) -> None:
        video = client.videos.create_and_poll(prompt="a boat", poll_interval_ms=20, **VIDEO)
        assert video.status == "completed"
        client.videos.delete(video.id)

    def test_are_listed_page_by_page(self, client: OpenAI) -> None:
        made = {client.videos.create_and_poll(prompt=f"boat {n}", poll_interval_ms=20, **VIDEO).id for n in range(3)}
        first = client.videos.list(limit=2)
        assert (len(first.data), first.has_more) == (2, True)
        listed = [video.id for video in client.videos.list(limit=2)]
        assert len(listed) == len(set(listed))
        assert made <= set(listed)
        for video in made:
            client.videos.delete(video)

    def test_are_nowhere_when_nobody_makes_any(self, starting: Starting) -> None:
        router = starting()
        with pytest.raises(openai.BadRequestError) as caught:
            client_of(router).videos.create(prompt="a boat", **VIDEO)
        assert caught.value.response.json()["error"] == "No video-capable workers available in current worker pool."


class TestModels:
    def test_are_those_of_all_workers(self, client: OpenAI, workers: dict[str, SimInThread]) -> None:
        served = [httpx2.get(f"{worker.url}/v1/models").json()["data"][0]["id"] for worker in workers.values()]
        listed = [model.id for model in client.models.list()]
        assert listed == served
        for model in listed:
            assert client.models.retrieve(model).id == model

    def test_that_nobody_serves_are_not_found(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody/nothing")


def client_of(router: RouterProcess, **options: Any) -> OpenAI:
    given = {"api_key": "none", "max_retries": 0, **options}
    return OpenAI(base_url=f"http://127.0.0.1:{router.port}/v1", **given)


class TestErrors:
    def test_of_a_worker_are_its_own(self, client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(prompt="a fox", size="banana")
        assert caught.value.body == {"detail": "size must be formatted as positive WIDTHxHEIGHT"}
        with pytest.raises(openai.UnprocessableEntityError):
            client.images.generate(prompt=None, size="64x64")

    def test_of_the_router_have_their_code(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.videos.retrieve("no-such-video")
        assert caught.value.response.json()["code"] == "unknown_job"
        assert caught.value.body == "no worker knows 'no-such-video'"
        assert caught.value.request_id == caught.value.response.headers["x-request-id"]

    def test_when_all_sleep_end_the_request_after_the_clients_tries(self, starting: Starting) -> None:
        router = starting()
        httpx2.post(f"http://127.0.0.1:{router.port}/release_memory_occupation", json={}).raise_for_status()
        with pytest.raises(openai.InternalServerError) as caught:
            client_of(router).images.generate(prompt="a fox", **SMALL)
        assert caught.value.response.json()["code"] == "no_routable_worker"

    def test_a_key_is_asked_for_and_taken(self, starting: Starting) -> None:
        router = starting("--api-key", "secret")
        with pytest.raises(openai.AuthenticationError):
            client_of(router, api_key="wrong").models.list()
        right = client_of(router, api_key="secret")
        eventually(lambda: [model.id for model in right.models.list()], lambda models: len(models) == 1)
        assert image_of(right).startswith(JPEG)

    def test_a_full_queue_is_tried_again_when_the_router_says(self, starting: Starting) -> None:
        flags = ("--queue-max-requests", "0", "--max-concurrency-per-worker", "1")
        router = starting(*flags, overhead_seconds=0.6)
        refused = client_of(router)
        patient = client_of(router, max_retries=5)
        with ThreadPoolExecutor() as pool:
            running = pool.submit(image_of, client_of(router), "a lighthouse")
            eventually(router.in_flight, lambda counts: any(counts.values()))
            with pytest.raises(openai.RateLimitError) as caught:
                image_of(refused)
            assert caught.value.response.json()["code"] == "queue_full"
            assert int(caught.value.response.headers["retry-after"]) >= 1
            assert image_of(patient).startswith(JPEG)
            assert running.result().startswith(JPEG)

    def test_a_client_that_gives_up_leaves_its_worker_charged_until_it_is_done(self, starting: Starting) -> None:
        router = starting(overhead_seconds=0.5)
        with pytest.raises(openai.APITimeoutError):
            image_of(client_of(router, timeout=0.1))
        assert list(router.in_flight().values()) == [1]
        router.wait_until_idle()


async def test_many_at_once_are_all_made(url: str) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        made = await asyncio.gather(
            *(client.images.generate(prompt=f"fox {n}", response_format="b64_json", **SMALL) for n in range(32))
        )
        video = await client.videos.create_and_poll(prompt="a boat", poll_interval_ms=20, **VIDEO)
        content = await client.videos.download_content(video.id)
        await client.videos.delete(video.id)
        models = [model.id async for model in client.models.list()]
    assert len({one.data[0].b64_json for one in made}) == 32
    assert (content.content[4:8], len(models)) == (b"ftyp", 3)
