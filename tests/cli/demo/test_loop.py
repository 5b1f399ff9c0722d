"""Tests of the demo's loop, against a router that the test plays."""

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgpack
import numpy as np
import pytest
from rich.console import Console

from sglang_diffusion_routing.cli.demo.loop import BASE_VERSION, CHECKPOINTS, CallFailed, Loop
from sglang_diffusion_routing.cli.demo.options import Options
from sglang_diffusion_routing.cli.demo.report import Report
from sglang_diffusion_routing.cli.processes import Usage
from sglang_diffusion_routing.client import ClientError
from sglang_diffusion_routing.sim.tensors import packed
from sglang_diffusion_routing.sim.weights import load_modules, module_checksum, write_checkpoint

pytestmark = pytest.mark.core

WORKERS = ("http://a:1", "http://b:2")


@dataclass
class Sim:
    url: str


class Router:
    """As much of a router process as the loop asks about."""

    def usage(self) -> Usage:
        return Usage(1.0, 50_000_000, 50_000_000)


@dataclass
class Fleet:
    workers: tuple[Sim, ...] = tuple(Sim(url) for url in WORKERS)
    speeds: tuple[float, ...] = (1.0, 0.5)
    router: Router = field(default_factory=Router)


class PlayedRouter:
    """Answers as router and workers do together; `faults` replaces the answer of a path."""

    def __init__(self) -> None:
        self.asleep = False
        self.version = "0"
        self.checksum = ""
        self.calls: list[str] = []
        self.faults: dict[str, Callable[[Any], httpx2.Response]] = {}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path != "/model_info":
            self.calls.append(path)
        body = json.loads(request.content) if request.content else None
        if path in self.faults:
            return self.faults[path](body)
        return {
            "/rollout/generate": self.rollout,
            "/release_memory_occupation": self.sleep,
            "/resume_memory_occupation": self.wake,
            "/update_weights_from_disk": self.refit,
            "/get_weights_checksum": self.checksums,
            "/workers": self.workers,
            "/model_info": lambda body: httpx2.Response(200, json={}),
        }[path](body)

    def rollout(self, body: dict[str, Any]) -> httpx2.Response:
        if self.asleep:
            return httpx2.Response(503, json={"error": "all 2 are asleep"})
        rng = np.random.default_rng(body["seed"])
        entries = [
            {
                "request_id": "r",
                "prompt": body["prompt"],
                "seed": body["seed"],
                "inference_time_s": 0.5,
                "generated_output": packed(rng.random((3, 256, 256), dtype=np.float32)),
                "rollout_log_probs": packed(np.full(8, -1.0, dtype=np.float32)),
                "dit_trajectory": {"latents": packed(rng.random((1, 16, 32, 32), dtype=np.float32))},
            }
            for _ in range(body["num_outputs_per_prompt"])
        ]
        head = {
            "x-sglang-router-worker": WORKERS[len(self.calls) % 2],
            "x-sglang-router-weight-version": self.version,
            "x-sglang-router-queue-ms": "0",
            "x-sim-weights": self.checksum,
        }
        return httpx2.Response(200, content=msgpack.packb(entries), headers=head)

    def sleep(self, body: object) -> httpx2.Response:
        self.asleep = True
        return fan_out({"success": True})

    def wake(self, body: object) -> httpx2.Response:
        self.asleep = False
        return fan_out({"success": True})

    def refit(self, body: dict[str, Any]) -> httpx2.Response:
        self.version = body["weight_version"]
        self.checksum = module_checksum(load_modules(body["model_path"], ["transformer"])["transformer"])
        return fan_out({"success": True}, weight_version=self.version)

    def checksums(self, body: object) -> httpx2.Response:
        return fan_out({"transformer": self.checksum})

    def workers(self, body: object) -> httpx2.Response:
        return httpx2.Response(200, json={"workers": [{"url": url, "active_requests": 0} for url in WORKERS]})


def fan_out(
    body: object, workers: tuple[str, ...] = WORKERS, *, success: bool = True, **facts: object
) -> httpx2.Response:
    rows = [{"worker_url": url, "status_code": 200, "body": body} for url in workers]
    return httpx2.Response(200, json={"results": rows, "success": success, **facts})


@pytest.fixture
def router() -> PlayedRouter:
    return PlayedRouter()


@pytest.fixture
def options(tmp_path: Path) -> Options:
    prompts = tuple(f"prompt {number}" for number in range(4))
    return Options(workers=2, prompts=prompts, samples=2, out=tmp_path, seed=0)


async def run(router: PlayedRouter, options: Options) -> tuple[list[str], list[str], str]:
    """Run the loop; give what held, what did not, and what was shown."""
    base = options.out / CHECKPOINTS / BASE_VERSION
    await asyncio.to_thread(write_checkpoint, base, seed=0)
    router.checksum = module_checksum(load_modules(str(base), ["transformer"])["transformer"])
    stream = io.StringIO()
    report = Report(Console(file=stream, width=120, force_terminal=False, highlight=False))
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(router), base_url="http://router") as client:
        verdict = await Loop(client, Fleet(), options, report).run(router.checksum)  # type: ignore[arg-type]
    return verdict.held, verdict.broken, stream.getvalue()


async def test_the_loop_rolls_out_sleeps_wakes_refits_and_rolls_out_again(
    router: PlayedRouter, options: Options
) -> None:
    held, broken, shown = await run(router, options)
    assert (len(held), broken) == (9, [])
    assert router.calls == [
        *["/rollout/generate"] * 4,
        "/release_memory_occupation",
        "/rollout/generate",
        "/resume_memory_occupation",
        "/update_weights_from_disk",
        "/get_weights_checksum",
        *["/rollout/generate"] * 4,
        "/workers",
    ]
    assert "refit      all on step-1 in 0.0" in shown
    assert {path.name for path in options.out.iterdir()} == {CHECKPOINTS, "contact-sheet.png", "samples.csv"}


async def test_a_worker_that_kept_its_old_weights_is_found(router: PlayedRouter, options: Options) -> None:
    router.faults["/update_weights_from_disk"] = lambda body: fan_out({"success": True}, weight_version="step-1")
    _, broken, shown = await run(router, options)
    assert [claim.split(":")[0] for claim in broken] == [
        "not true that every worker holds the new checkpoint, bit for bit",
        "not true that every sample of rollout 2 ran on weights 'step-1' (" + broken[1].split("(")[1].split(":")[0],
    ]
    assert "✗ not true" in shown


async def test_work_that_is_served_while_all_sleep_is_found(router: PlayedRouter, options: Options) -> None:
    router.faults["/release_memory_occupation"] = lambda body: fan_out({"success": True})
    _, broken, _ = await run(router, options)
    assert broken == ["not true that a rollout is refused while all workers sleep: it got 200"]


async def test_a_request_that_is_left_over_is_found(router: PlayedRouter, options: Options) -> None:
    left = {"workers": [{"url": "http://a:1", "active_requests": 1}, {"url": "http://b:2", "active_requests": 0}]}
    router.faults["/workers"] = lambda body: httpx2.Response(200, json=left)
    _, broken, _ = await run(router, options)
    assert broken == ["not true that no request is left on any worker: http://a:1 has 1"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (httpx2.Response(503, text="nobody"), "503: nobody"),
        (fan_out({"success": False}, success=False), "wake: http://a:1 answered 200"),
        (fan_out({"success": True}, WORKERS[:1]), "wake reached 1 of 2 workers"),
    ],
)
async def test_a_call_that_fails_ends_the_loop(
    router: PlayedRouter, options: Options, answer: httpx2.Response, sentence: str
) -> None:
    router.faults["/resume_memory_occupation"] = lambda body: answer
    with pytest.raises((CallFailed, ClientError)) as caught:
        await run(router, options)
    assert str(caught.value).startswith(sentence)
