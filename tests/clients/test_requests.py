"""`requests`, as trainers' engines and scripts use it: sessions, pools, streamed bodies, ranges."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from clients.conftest import Starting
from sglang_diffusion_routing.sim.in_thread import SimInThread

pytestmark = pytest.mark.e2e

MODEL = "sim/stable-diffusion-3-medium"
ROLLOUT: dict[str, Any] = {
    "model": MODEL,
    "prompt": "a fox",
    "seed": 7,
    "num_outputs_per_prompt": 2,
    "width": 64,
    "height": 64,
    "num_inference_steps": 2,
    "rollout_return_dit_trajectory": True,
}
VIDEO = {"prompt": "a boat", "size": "64x64", "num_frames": 5, "num_inference_steps": 2}


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture
def video(session: requests.Session, url: str) -> str:
    """The address of a video that is ready."""
    made = session.post(f"{url}/v1/videos", json=VIDEO, timeout=30).json()
    where = f"{url}/v1/videos/{made['id']}"
    while (job := session.get(where, timeout=30).json())["status"] != "completed":
        assert job["status"] in {"queued", "in_progress"}
    return where


def test_a_rollout_comes_as_the_worker_packs_it(
    session: requests.Session, url: str, workers: dict[str, SimInThread]
) -> None:
    reply = session.post(f"{url}/rollout/generate", json=ROLLOUT, timeout=30)
    straight = session.post(f"{workers['sd3'].url}/rollout/generate", json=ROLLOUT, timeout=30)
    assert reply.headers["content-type"] == "application/msgpack"
    told, expected = (msgpack.unpackb(each.content) for each in (reply, straight))
    assert [one["dit_trajectory"] for one in told] == [one["dit_trajectory"] for one in expected]


def test_a_session_keeps_its_connection(session: requests.Session, url: str) -> None:
    for _ in range(5):
        assert session.get(f"{url}/v1/models", timeout=30).status_code == 200
    adapter = session.get_adapter(url)
    assert isinstance(adapter, HTTPAdapter)
    [pool] = [adapter.poolmanager.pools[key] for key in adapter.poolmanager.pools.keys()]  # noqa: SIM118
    assert (pool.num_connections, pool.num_requests) == (1, 5)


def test_many_threads_share_a_session(url: str) -> None:
    with requests.Session() as session, ThreadPoolExecutor(16) as pool:
        session.mount("http://", HTTPAdapter(pool_maxsize=16))
        seeds = range(32)
        replies = pool.map(lambda seed: session.post(f"{url}/rollout/generate", json={**ROLLOUT, "seed": seed}), seeds)
        assert [msgpack.unpackb(reply.content)[0]["seed"] for reply in replies] == list(seeds)


def test_a_body_without_a_length_is_streamed(session: requests.Session, url: str) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"prompt": "a fox", "size": "64x64", '
        yield b'"num_inference_steps": 1, "response_format": "b64_json"}'

    headers = {"content-type": "application/json"}
    reply = session.post(f"{url}/v1/images/generations", data=parts(), headers=headers, timeout=30)
    assert (reply.status_code, reply.json()["data"][0]["b64_json"][:4]) == (200, "/9j/")


def test_a_video_is_streamed_to_a_file(session: requests.Session, url: str, video: str, tmp_path: Path) -> None:
    whole = session.get(f"{video}/content", timeout=30)
    with session.get(f"{video}/content", stream=True, timeout=30) as reply, (tmp_path / "v.mp4").open("wb") as file:
        for span in reply.iter_content(1000):
            file.write(span)
    assert (tmp_path / "v.mp4").read_bytes() == whole.content
    assert len(whole.content) == int(whole.headers["content-length"])


@pytest.mark.parametrize(("asked", "first", "last"), [("0-99", 0, 99), ("100-", 100, None), ("-100", -100, None)])
def test_a_range_is_the_workers(
    session: requests.Session, video: str, asked: str, first: int, last: int | None
) -> None:
    whole = session.get(f"{video}/content", timeout=30).content
    part = session.get(f"{video}/content", headers={"range": f"bytes={asked}"}, timeout=30)
    assert (part.status_code, part.content) == (206, whole[first : None if last is None else last + 1])
    assert part.headers["content-range"].endswith(f"/{len(whole)}")


def test_what_has_not_changed_is_not_sent_again(session: requests.Session, video: str) -> None:
    etag = session.get(f"{video}/content", timeout=30).headers["etag"]
    again = session.get(f"{video}/content", headers={"if-range": etag, "range": "bytes=0-0"}, timeout=30)
    assert (again.status_code, len(again.content)) == (206, 1)


def test_a_form_with_a_file_is_an_edit(session: requests.Session, url: str, tmp_path: Path) -> None:
    image = session.post(f"{url}/rollout/generate", json=ROLLOUT, timeout=30).content
    (tmp_path / "large.bin").write_bytes(image)
    with (tmp_path / "large.bin").open("rb") as file:
        reply = session.post(
            f"{url}/v1/images/edits",
            data={"prompt": "in the snow", "size": "64x64", "model": "sim/qwen-image-edit"},
            files={"image": ("fox.bin", file, "application/octet-stream")},
            timeout=30,
        )
    assert reply.status_code == 200, reply.text


def test_a_retrying_session_waits_as_the_router_says(starting: Starting) -> None:
    router = starting("--queue-max-requests", "0", "--max-concurrency-per-worker", "1", overhead_seconds=0.6)
    url = f"http://127.0.0.1:{router.port}/v1/images/generations"
    again = Retry(total=5, status_forcelist=[429, 503], allowed_methods=None, respect_retry_after_header=True)
    with requests.Session() as session, ThreadPoolExecutor(2) as pool:
        session.mount("http://", HTTPAdapter(max_retries=again))
        body = {"prompt": "a fox", "size": "64x64", "num_inference_steps": 1}
        both = [pool.submit(session.post, url, json=body, timeout=30) for _ in range(2)]
        assert [one.result().status_code for one in both] == [200, 200]


def test_a_broken_off_download_leaves_the_worker_free(starting: Starting) -> None:
    router = starting(pad_reply_bytes=8_000_000)
    url = f"http://127.0.0.1:{router.port}/rollout/generate"
    with requests.post(url, json={**ROLLOUT, "model": None}, stream=True, timeout=30) as reply:
        assert next(reply.iter_content(1000))
    router.wait_until_idle()
