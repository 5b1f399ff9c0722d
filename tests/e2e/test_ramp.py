"""A worker that joins a fleet at work proves itself, as `GET /workers` shows it."""

from collections.abc import Iterator

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter, running

pytestmark = pytest.mark.loopback

IMAGE = {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1}


@pytest.fixture
def workers() -> Iterator[tuple[str, str]]:
    with SimInThread() as first, SimInThread() as second:
        yield first.url, second.url


async def work(router: RunningRouter, worker: str) -> None:
    headers = {"x-sglang-router-worker": worker}
    assert (await router.client.post("/v1/images/generations", json=IMAGE, headers=headers)).status_code == 200


async def ramps_seen(router: RunningRouter, first: str, second: str) -> list[int | None]:
    """Let the first prove itself, the second join, and then work: give its ramp after each piece."""
    await work(router, first)
    await work(router, first)
    assert (await router.post("/workers", {"url": second}))[0] < 300
    await router.until_status(second, "active")
    seen = [(await router.worker(second))["ramp"]]
    for _ in range(2):
        await work(router, second)
        seen.append((await router.worker(second))["ramp"])
    return seen


async def test_a_worker_that_joins_has_a_ramp_until_it_has_done_well(workers: tuple[str, str]) -> None:
    async with running(workers[0], max_concurrency_per_worker=4) as router:
        assert await ramps_seen(router, *workers) == [1, 2, None]


async def test_there_is_none_without_ramps(workers: tuple[str, str]) -> None:
    async with running(workers[0], max_concurrency_per_worker=4, ramp=False) as router:
        assert await ramps_seen(router, *workers) == [None, None, None]
