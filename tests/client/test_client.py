"""Tests of both clients against a real router in front of simulated workers."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sglang_diffusion_routing.client import (
    Client,
    Done,
    FanOutFailed,
    Refused,
    Retry,
    SamplesMissing,
    Terms,
    Unreachable,
)
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.any_client import AnyClient
from support.running import RunningRouter, eventually

pytestmark = pytest.mark.loopback

SMALL: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2}
PATH = {**SMALL, "rollout_return_dit_trajectory": True, "rollout_return_denoising_env": True}


async def test_a_rollout_brings_its_samples_decoded(client: AnyClient, image_workers: list[str]) -> None:
    rollout = await client.call("rollout", "a fox", seed=7, num_outputs_per_prompt=3, **PATH)

    assert len(rollout.samples) == 3
    assert rollout.origin.worker in image_workers
    assert rollout.origin.weight_version == "0"
    sample = rollout.samples[0]
    assert (sample.prompt, sample.log_probs.shape) == ("a fox", (2,))
    assert (sample.output.shape, sample.output.numpy().dtype) == ((3, 64, 64), np.float32)
    assert sample.trajectory.latents.shape[0] == 3
    assert sample.more == {}


async def test_a_batch_stands_as_its_prompts_did(client: AnyClient, image_workers: list[str]) -> None:
    told: list[Done] = []
    prompts = [f"fox {index}" for index in range(12)]
    batch = await client.call("rollout_many", prompts, seed=1, concurrency=5, on_done=told.append, **SMALL)

    assert [rollout.samples[0].prompt for rollout in batch.complete()] == prompts
    assert [rollout.samples[0].seed for rollout in batch] == list(range(1, 13))
    assert sorted(done.index for done in told) == list(range(12))
    assert [done.done for done in told] == list(range(1, 13))
    assert {rollout.origin.worker for rollout in batch} == set(image_workers)


async def test_what_there_is_of_a_batch_is_kept(client: AnyClient) -> None:
    # A worker knows no such noise, and says so.
    prompts: list[Any] = ["a", {"prompt": "b", "rollout_sde_type": "no such"}, "c"]
    batch = await client.call("rollout_many", prompts, seed=1, **SMALL)

    assert [rollout is not None for rollout in batch.rollouts] == [True, False, True]
    assert isinstance(batch.failures[1], Refused)
    with pytest.raises(SamplesMissing, match="1 of 3"):
        batch.complete()


async def test_a_batch_may_be_empty(client: AnyClient) -> None:
    assert len(await client.call("rollout_many", [], seed=1)) == 0


async def test_each_prompt_may_have_its_own_terms(client: AnyClient, image_workers: list[str]) -> None:
    batch = await client.call(
        "rollout_many", ["a", "b"], seed=1, terms=lambda index: Terms(worker=image_workers[index]), **SMALL
    )

    assert [rollout.origin.worker for rollout in batch.complete()] == image_workers


async def test_a_native_generation_brings_its_path(client: AnyClient) -> None:
    made = await client.call("generate", "a fox", seed=3, get_latents=True, get_log_probs=True, **SMALL)

    assert (made.output_format, made.output[:4]) == ("png", b"\x89PNG")
    assert made.trajectory.latents.shape[:2] == (1, 3)
    assert made.trajectory.log_probs.shape == (1, 2)
    assert len(made.trajectory.timesteps) == 3


async def test_images_are_bytes_unless_an_address_is_wanted(client: AnyClient) -> None:
    request = {"size": "64x64", "num_inference_steps": 1}
    made = await client.call("images", "a fox", n=2, **request)
    assert len(made.images) == 2

    named = await client.call("images", "a fox", response_format="url", **request)
    assert (named.images[0].data, named.images[0].url) == (None, f"/v1/images/{named.id}/content")


async def test_a_refit_and_its_version_reach_every_sample(client: AnyClient, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", seed=5)
    reply = await client.call("refit", str(tmp_path / "c"), weight_version="step-1")

    assert (reply["success"], len(reply["results"])) == (True, 2)
    rollout = await client.call("rollout", "a", seed=1, terms=Terms(min_weight_version="step-1"), **SMALL)
    assert rollout.origin.weight_version == "step-1"
    weights = await client.call("weights")
    assert [group["target"] for group in weights["groups"].values()] == ["step-1"]
    assert (await client.call("checksums"))["consistent"] is True


async def test_a_refused_refit_is_an_error_unless_asked(client: AnyClient) -> None:
    with pytest.raises(FanOutFailed, match=r"refit: http://127\.0\.0\.1") as failed:
        await client.call("refit", "/no/such/checkpoint")
    assert len(failed.value.reply["results"]) == 2
    assert (await client.call("refit", "/no/such/checkpoint", partial_ok=True))["success"] is False


async def test_the_fleet_sleeps_and_wakes(client: AnyClient) -> None:
    assert (await client.call("sleep"))["success"] is True
    assert {worker["status"] for worker in await client.call("workers")} == {"sleeping"}
    health = await client.call("health")
    assert (health["status"], health["sleeping_workers"]) == ("unhealthy", 2)
    assert (await client.call("wake"))["success"] is True
    assert {worker["status"] for worker in await client.call("workers")} == {"active"}


async def test_a_paused_router_goes_on_after_the_block(router: RunningRouter, image_workers: list[str]) -> None:
    del image_workers
    url = str(router.client.base_url)

    def work() -> int:
        with Client(url) as client:
            try:
                with client.paused(timeout_s=60):
                    raise RuntimeError("in the block")
            except RuntimeError:
                return len(client.rollout("a", seed=1, **SMALL).samples)

    assert await asyncio.to_thread(work) == 1


async def test_what_waits_can_be_dropped(client: AnyClient, router: RunningRouter) -> None:
    await router.post("/pause_generation")
    waiting = asyncio.ensure_future(
        client.call("rollout", "a", seed=1, terms=Terms(group="g", request_id="r"), **SMALL)
    )
    await eventually(lambda: router.get("/workers"), lambda got: got[1]["queue"]["requests"] == 1)

    assert await client.call("abort", group="other") == 0
    assert await client.call("abort", group="g") == 1
    with pytest.raises(Refused, match="499") as refused:
        await waiting
    assert refused.value.code == "aborted"


def test_nobody_there_is_told_after_the_last_attempt() -> None:
    with Client("http://127.0.0.1:1", retry=Retry(attempts=2, wait_s=0.0)) as client:
        with pytest.raises(Unreachable, match="POST /rollout/generate"):
            client.rollout("a", seed=1)
        with pytest.raises(Unreachable, match="GET /workers"):
            client.workers()


async def test_an_error_in_the_callback_ends_the_batch(client: AnyClient) -> None:
    def fail(_done: Done) -> None:
        raise ZeroDivisionError

    with pytest.raises((ZeroDivisionError, ExceptionGroup)):
        await client.call("rollout_many", ["a"] * 4, seed=1, concurrency=1, on_done=fail, **SMALL)
