"""`curl`, with the options by which it is not like a library."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.router import RouterProcess

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")]

JSON = ("-H", "content-type: application/json")
IMAGE = '{"prompt": "a fox", "size": "64x64", "num_inference_steps": 1, "response_format": "b64_json"}'
FACTS = "%{stderr}%{http_code} %{http_version} %{num_connects}"


def curl(*arguments: str | Path, told: bytes = b"", status: int = 0) -> tuple[bytes, str]:
    """Run curl to its end; give what it received, and what `-w` says."""
    done = subprocess.run(
        ["curl", "--silent", "--noproxy", "*", "--max-time", "30", "-w", FACTS, *map(str, arguments)],
        input=told,
        capture_output=True,
        check=False,
        timeout=40.0,
    )
    assert done.returncode == status, done
    return done.stdout, done.stderr.decode()


def images_in(reply: bytes) -> int:
    return len(json.loads(reply)["data"])


def test_a_body_from_a_pipe(url: str) -> None:
    where = f"{url}/v1/images/generations"
    body, facts = curl("-X", "POST", *JSON, "-T", "-", where, told=IMAGE.encode())
    assert (images_in(body), facts) == (1, "200 1.1 1")


def test_http_1_0(url: str) -> None:
    body, facts = curl("--http1.0", *JSON, "-d", IMAGE, f"{url}/v1/images/generations")
    assert (images_in(body), facts.split()[0]) == (1, "200")
    # What is made up as it is sent has no length, and no chunks either: its end is the connection's.
    body, facts = curl("--http1.0", f"{url}/openapi.json")
    assert (json.loads(body)["openapi"][:2], facts.split()[0]) == ("3.", "200")


@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
def test_a_large_upload_waits_for_the_word_to_go_on(url: str, tmp_path: Path, size: int) -> None:
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff" + bytes(size))
    form = ("-F", "prompt=in the snow", "-F", "size=64x64", "-F", "model=sim/qwen-image-edit")
    image = f"image=@{tmp_path / 'large.jpg'};type=image/jpeg"
    for expect in ("Expect: 100-continue", "Expect:"):
        body, facts = curl(*form, "-F", image, "-H", expect, f"{url}/v1/images/edits")
        assert (images_in(body), facts) == (1, "200 1.1 1")


def test_compressed_is_asked_of_the_worker(url: str, workers: dict[str, SimInThread]) -> None:
    through, _ = curl("--compressed", f"{url}/model_info")
    assert json.loads(through)["model_path"] in {
        json.loads(curl("--compressed", f"{worker.url}/model_info")[0])["model_path"] for worker in workers.values()
    }


def test_a_head_has_no_body(url: str) -> None:
    told, facts = curl("-I", f"{url}/liveness")
    assert told.startswith(b"HTTP/1.1 200")
    assert facts == "200 1.1 1"


def test_one_connection_serves_several_urls(url: str) -> None:
    _, facts = curl(f"{url}/liveness", f"{url}/v1/models", f"{url}/health")
    assert facts == "200 1.1 1200 1.1 0200 1.1 0"


def test_an_offer_of_http_2_is_passed_over(url: str) -> None:
    """`--http2` asks to upgrade a plain connection to h2c: nobody tunnels that to a worker (RFC 9113 §3.1)."""
    body, facts = curl("--http2", *JSON, "-d", IMAGE, f"{url}/v1/images/generations")
    assert (images_in(body), facts) == (1, "200 1.1 1")
    _, facts = curl("--http2", f"{url}/workers")
    assert facts == "200 1.1 1"


def test_http_2_without_asking_ends_cleanly(url: str, router: RouterProcess) -> None:
    # It takes the 400 that it gets for a frame of HTTP/2, and says so in one of these ways (libcurl-errors(3)).
    done = subprocess.run(
        ["curl", "--silent", "--max-time", "30", "--http2-prior-knowledge", f"{url}/liveness"],
        capture_output=True,
        check=False,
        timeout=40.0,
    )
    assert done.returncode in {1, 16, 52, 56}
    assert curl(f"{url}/liveness")[1] == "200 1.1 1"


def test_a_download_goes_on_where_it_stopped(url: str, tmp_path: Path) -> None:
    body = '{"prompt": "a boat", "size": "64x64", "num_frames": 5, "num_inference_steps": 1}'
    job = json.loads(curl(*JSON, "-d", body, f"{url}/v1/videos")[0])["id"]
    while json.loads(curl(f"{url}/v1/videos/{job}")[0])["status"] != "completed":
        pass
    whole, _ = curl(f"{url}/v1/videos/{job}/content")
    (tmp_path / "boat.mp4").write_bytes(whole[:5000])
    _, facts = curl("-C", "-", "-o", tmp_path / "boat.mp4", f"{url}/v1/videos/{job}/content")
    assert ((tmp_path / "boat.mp4").read_bytes(), facts) == (whole, "206 1.1 1")
    part, _ = curl("-r", "10-19", f"{url}/v1/videos/{job}/content")
    assert part == whole[10:20]


def test_a_path_as_it_is_reaches_no_control_route_by_another_name(url: str) -> None:
    for path in ("/x/../workers", "//workers", "/%77orkers", "/./workers"):
        body, facts = curl("--path-as-is", f"{url}{path}")
        assert facts.split()[0] in {"200", "404"}, path
        if facts.startswith("200"):
            assert "workers" in json.loads(body)


def test_who_gives_up_frees_the_router(url: str, router: RouterProcess) -> None:
    big = '{"prompt": "a fox", "size": "1024x1024", "num_inference_steps": 50}'
    curl("--max-time", "0.2", *JSON, "-d", big, f"{url}/v1/images/generations", status=28)
    router.wait_until_idle()
