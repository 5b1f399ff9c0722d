"""Clients that people have, unmodified, against the router: OpenAI's library and SGLang's own benchmark."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from engine.fleet import EngineFleet

CLIENT_S = 120.0
PAGE = Path(__file__).resolve().parents[2] / "docs" / "engine.md"
OPENAI = """
import base64, json, sys
from openai import NotFoundError, OpenAI, APIStatusError

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
model = client.models.list().data[0].id
more = {"seed": 3, "num_inference_steps": 4}
told = client.images.generate(model=model, prompt="a fox", size="64x64", response_format="b64_json", extra_body=more)
linked = client.images.generate(model=model, prompt="a fox", size="64x64", n=2, response_format="url", extra_body=more)
try:
    client.images.generate(model=model, prompt="a fox", size="banana")
    refused = None
except APIStatusError as error:
    refused = [error.status_code, error.body]
try:
    client.models.retrieve("nobody/nothing")
    unknown = None
except NotFoundError as error:
    unknown = error.status_code
print(json.dumps({
    "model": model,
    "first": base64.b64decode(told.data[0].b64_json)[:3].hex(),
    "urls": [image.url for image in linked.data],
    "refused": refused,
    "unknown": unknown,
}))
"""


def run(*command: str | Path, folder: Path) -> str:
    """Run a program to its end in a folder of its own, offline, and give what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=CLIENT_S,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_of_the_page_run(fleet: EngineFleet, tmp_path: Path) -> None:
    (tmp_path / ".engine").symlink_to(fleet.models.parent)
    image, refit = re.findall(r"^\$ (curl .*?[^\\])$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for command in (image, refit):
        told = run("sh", "-c", command.replace("localhost:30080", fleet.url.removeprefix("http://")), folder=tmp_path)
    assert (tmp_path / "fox.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    assert json.loads(told)["success"] is True
    assert fleet.refit("tiny-sd3-medium", "first").status_code == 200


def test_openais_python_client_makes_images(fleet: EngineFleet, tmp_path: Path) -> None:
    told: dict[str, Any] = json.loads(run(fleet.python, "-c", OPENAI, fleet.url, folder=tmp_path))
    urls = told.pop("urls")
    assert told == {
        "model": str(fleet.models / "tiny-sd3-medium"),
        "first": "ffd8ff",
        "refused": [400, {"detail": "size must be formatted as positive WIDTHxHEIGHT"}],
        "unknown": 404,
    }
    assert [url.rpartition("/")[2] for url in urls] == ["content?variant=0", "content?variant=1"]


def test_sglangs_own_benchmark_runs_unmodified(fleet: EngineFleet, tmp_path: Path) -> None:
    fleet.wait_until_active()
    requests = 8
    printed = run(
        *(fleet.python, "-m", "sglang.multimodal_gen.benchmarks.bench_serving", "--base-url", fleet.url),
        *("--dataset", "random", "--task", "text-to-image", "--num-prompts", str(requests), "--max-concurrency", "4"),
        *("--width", "64", "--height", "64", "--num-inference-steps", "4", "--disable-tqdm"),
        *("--output-file", "metrics.json"),
        folder=tmp_path,
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["completed_requests"], metrics["failed_requests"], metrics["completed_outputs"]) == (requests, 0, 8)
    assert f"{requests}/{requests}" in printed
    fleet.wait_until_idle()
