"""Tenants share simulated workers through the real router."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

IMAGE = {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1}


@pytest.fixture
def worker() -> Iterator[str]:
    with SimInThread() as worker:
        yield worker.url


async def queue(router: RunningRouter, target: str = "/workers") -> dict[str, object]:
    _, listed = await router.get(target)
    return dict(listed["queue"])


async def test_a_flood_leaves_another_tenant_its_share_and_the_queue_shows_both(worker: str) -> None:
    finished: list[str] = []

    async def ask(tenant: str) -> None:
        headers = {"x-sglang-router-tenant": tenant}
        response = await router.client.post("/v1/images/generations", json=IMAGE, headers=headers)
        assert response.status_code == 200
        finished.append(tenant)

    async with running(worker, max_concurrency_per_worker=1, tenant_weights=("a=3",)) as router:
        await router.post("/pause_generation")
        asked = [asyncio.ensure_future(ask(tenant)) for tenant in "b" * 12 + "a" * 12]
        shown = await eventually(lambda: queue(router), lambda seen: seen["requests"] == 24)
        tenants = {entry["tenant"]: (entry["requests"], entry["weight"]) for entry in shown["tenants"]}
        assert tenants == {"a": (12, 3.0), "b": (12, 1.0)}
        assert (await queue(router, "/health_workers"))["tenants"] == shown["tenants"]
        await router.post("/continue_generation")
        await asyncio.gather(*asked)
    # One worker does one after the other, so they finish in the order in which they were given to it.
    assert Counter(finished[:12]) == {"a": 9, "b": 3}
    assert Counter(finished) == {"a": 12, "b": 12}
