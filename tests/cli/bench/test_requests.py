"""Tests of the requests that a benchmark sends."""

import itertools
import json
import statistics
from typing import Any

import pytest

from sglang_diffusion_routing.cli.bench.requests import Request, Shape, Task, arrivals_s

pytestmark = pytest.mark.core

SHAPE = Shape(width=512, height=256, steps=20, frames=17, outputs=2)


@pytest.mark.parametrize(
    ("task", "path", "size"),
    [
        (Task.IMAGE, "/v1/images/generations", {"size": "512x256", "n": 2, "response_format": "b64_json"}),
        (Task.VIDEO, "/v1/videos", {"width": 512, "height": 256, "num_outputs_per_prompt": 2, "num_frames": 17}),
        (
            Task.ROLLOUT,
            "/rollout/generate",
            {
                "width": 512,
                "height": 256,
                "num_outputs_per_prompt": 2,
                "num_frames": 17,
                "rollout_debug_mode": False,
            },
        ),
    ],
)
def test_each_task_spells_its_size_as_its_route_does(task: Task, path: str, size: dict[str, Any]) -> None:
    request = Request.of(task, SHAPE, 3)
    assert (request.path, request.outputs) == (path, 2)
    assert json.loads(request.body) == {
        "prompt": "a fox in the snow, take 3",
        "seed": 6,
        "num_inference_steps": 20,
        **size,
    }


def test_arrivals_are_a_poisson_process_that_can_be_repeated() -> None:
    times_s = arrivals_s(20_001, 50.0, seed=3)
    assert times_s == arrivals_s(20_001, 50.0, seed=3) != arrivals_s(20_001, 50.0, seed=4)
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times_s)]
    assert times_s[0] == 0.0
    assert min(gaps_s) >= 0.0
    # Of an exponential distribution mean and standard deviation are the same.
    assert statistics.fmean(gaps_s) == pytest.approx(0.02, rel=0.05)
    assert statistics.pstdev(gaps_s) == pytest.approx(0.02, rel=0.05)
    assert (arrivals_s(0, 1.0, 0), arrivals_s(1, 1.0, 0)) == ([], [0.0])


def test_further_fields_win() -> None:
    body = json.loads(Request.of(Task.IMAGE, SHAPE, 0, {"seed": 9, "guidance_scale": 1}).body)
    assert (body["seed"], body["guidance_scale"]) == (9, 1)


def test_work_counts_pixels_steps_frames_and_outputs() -> None:
    assert SHAPE.mpx_steps == pytest.approx(0.131072 * 20 * 17 * 2)
