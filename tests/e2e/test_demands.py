"""Requests that demand weights, over simulated workers that are refit meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

IMAGE = {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1}


@pytest.fixture
def workers() -> Iterator[tuple[str, str]]:
    with SimInThread() as first, SimInThread() as second:
        yield first.url, second.url


@pytest.fixture
async def router(workers: tuple[str, str]) -> AsyncIterator[RunningRouter]:
    async with running(*workers) as router:
        yield router


@pytest.fixture
async def hasty(workers: tuple[str, str]) -> AsyncIterator[RunningRouter]:
    """A router that lets nobody wait for weights for long."""
    async with running(*workers, weights_wait_s=0.3) as hasty:
        yield hasty


async def demand(router: RunningRouter, version: str) -> httpx2.Response:
    headers = {"x-sglang-router-min-weight-version": version}
    return await router.client.post("/v1/images/generations", json=IMAGE, headers=headers)


async def refit(router: RunningRouter, version: str, mode: str = "drain") -> None:
    body = {"model_path": f"sim/{version}", "weight_version": version}
    status, answer = await router.post(f"/update_weights_from_disk?mode={mode}", body)
    assert (status, answer["success"]) == (200, True), answer


async def queued(router: RunningRouter) -> int:
    metrics = (await router.client.get("/metrics")).text
    (line,) = [line for line in metrics.splitlines() if line.startswith("sgld_router_queue_requests ")]
    return int(float(line.split()[1]))


@pytest.mark.parametrize("mode", ["drain", "rolling"])
async def test_a_demand_waits_for_the_refit_that_meets_it(router: RunningRouter, mode: str) -> None:
    waiting = asyncio.ensure_future(demand(router, "step-1"))
    await eventually(lambda: queued(router), lambda count: count == 1)
    plain = await router.client.post("/v1/images/generations", json=IMAGE)
    assert plain.headers["x-sglang-router-weight-version"] == "0"
    await refit(router, "step-1", mode)
    response = await waiting
    assert (response.status_code, response.headers["x-sglang-router-weight-version"]) == (200, "step-1")
    assert int(response.headers["x-sglang-router-queue-ms"]) > 0


async def test_later_weights_will_do_and_the_order_is_the_ledger_s(router: RunningRouter) -> None:
    for version in ("step-2", "step-1"):
        await refit(router, version)
    for version in ("0", "step-2", "step-1"):
        response = await demand(router, version)
        assert (response.status_code, response.headers["x-sglang-router-weight-version"]) == (200, "step-1")


async def test_what_nobody_comes_to_have_is_a_503_that_says_what_there_is(hasty: RunningRouter) -> None:
    await refit(hasty, "step-1")
    response = await demand(hasty, "step-9")
    facts = response.json()
    assert (response.status_code, facts["code"], facts["min_weight_version"]) == (503, "weights_unmet", "step-9")
    assert list(facts["targets"].values()) == ["step-1"]
    assert facts["by_status"] == {"active": 2}
    assert "retry-after" in response.headers


async def test_with_the_fleet_asleep_nobody_waits(router: RunningRouter) -> None:
    await router.post("/release_memory_occupation")
    response = await demand(router, "step-1")
    assert (response.status_code, response.json()["code"]) == (503, "no_routable_worker")
