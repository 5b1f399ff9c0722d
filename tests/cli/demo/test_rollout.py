"""Tests of one rollout, against a router that the test plays."""

import asyncio
import json
from typing import Any

import httpx2
import msgpack
import numpy as np
import pytest

from sglang_diffusion_routing.cli.demo.rollout import RolloutFailed, rollout, thumbnail
from sglang_diffusion_routing.client import AsyncClient, Retry
from sglang_diffusion_routing.sim.tensors import packed

pytestmark = pytest.mark.core

HEAD = {
    "x-sglang-router-worker": "http://a:1",
    "x-sglang-router-weight-version": "0",
    "x-sglang-router-queue-ms": "12.5",
    "x-sim-weights": "c0ffee",
}


def answer(body: dict[str, Any], head: dict[str, str] = HEAD) -> httpx2.Response:
    """Answer a rollout as a worker would, each sample a little redder than the one before."""
    samples = body["num_outputs_per_prompt"]
    entries = [
        {
            "request_id": "r",
            "prompt": body["prompt"],
            "seed": body["seed"],
            "inference_time_s": 0.5,
            "generated_output": packed(np.full((3, 256, 256), number / samples, dtype=np.float32)),
            "rollout_log_probs": packed(np.full(8, -1.0, dtype=np.float32)),
            "dit_trajectory": {"latents": packed(np.zeros((1, 16, 32, 32), dtype=np.float32))},
        }
        for number in range(samples)
    ]
    return httpx2.Response(200, content=msgpack.packb(entries), headers=head)


async def run(handler: Any, prompts: list[str], samples: int = 2) -> tuple[Any, int]:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handler), base_url="http://router") as client:
        router = AsyncClient(http=client, retry=Retry(attempts=1))
        return await rollout(router, prompts, samples, 100, tick), ticks


async def test_samples_come_in_the_order_of_the_prompts_whatever_the_order_of_the_replies() -> None:
    first_may_end = asyncio.Event()

    async def handler(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        if body["prompt"] == "a fox":
            await first_may_end.wait()
        else:
            first_may_end.set()
        return answer(body)

    groups, ticks = await run(handler, ["a fox", "a tram"])
    assert [[(s.text, s.prompt, s.number, s.seed) for s in group] for group in groups] == [
        [("a fox", 0, 0, 100), ("a fox", 0, 1, 101)],
        [("a tram", 1, 0, 102), ("a tram", 1, 1, 103)],
    ]
    assert ticks == 2


async def test_a_sample_knows_where_it_ran() -> None:
    ((sample, _),), _ = await run(lambda request: answer(json.loads(request.content)), ["a fox"])
    assert (sample.worker, sample.version, sample.weights, sample.queue_ms, sample.seconds) == (
        "http://a:1",
        "0",
        "c0ffee",
        12.5,
        0.5,
    )


async def test_all_prompts_are_sent_at_once() -> None:
    arrived = 0
    all_there = asyncio.Event()

    async def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal arrived
        arrived += 1
        if arrived == 20:
            all_there.set()
        await all_there.wait()
        return answer(json.loads(request.content))

    groups, _ = await run(handler, [f"prompt {number}" for number in range(20)])
    assert len(groups) == 20


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (httpx2.Response(503, text="all asleep"), "prompt 1: 503: all asleep"),
        (httpx2.Response(200, content=b"junk", headers=HEAD), "prompt 1: reply: no msgpack"),
        (answer({"prompt": "a fox", "seed": 1, "num_outputs_per_prompt": 2}, {}), "prompt 1 lacks what was asked for"),
    ],
)
async def test_a_prompt_without_samples_ends_the_rollout(reply: httpx2.Response, sentence: str) -> None:
    with pytest.raises(RolloutFailed) as caught:
        await run(lambda request: reply, ["a fox"])
    assert str(caught.value).startswith(sentence)


async def test_a_broken_connection_ends_the_rollout_and_the_other_requests() -> None:
    cancelled = asyncio.Event()

    async def handler(request: httpx2.Request) -> httpx2.Response:
        if json.loads(request.content)["prompt"] == "a tram":
            raise httpx2.ReadError("gone")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    with pytest.raises(RolloutFailed, match=r"prompt 2: .*ReadError"):
        await run(handler, ["a fox", "a tram"])
    assert cancelled.is_set()


def test_a_thumbnail_is_the_mean_of_each_block() -> None:
    colours = np.zeros((3, 256, 256), dtype=np.float32)
    colours[0, :4, :2] = 1  # half of the first block is red
    shrunk = thumbnail(colours)
    assert (shrunk.shape, shrunk.dtype, shrunk[0, 0].tolist(), shrunk.sum()) == (
        (64, 64, 3),
        np.uint8,
        [128, 0, 0],
        128,
    )
