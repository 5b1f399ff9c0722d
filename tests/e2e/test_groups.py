"""Groups of requests over simulated workers that are refit meanwhile, and placement by prompt and seed."""

import asyncio
from collections.abc import Iterator

import httpx2
import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

IMAGE = {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1}
REFIT_S = 0.3
VERSIONS = ("0", "step-1", "step-2")


@pytest.fixture
def workers() -> Iterator[tuple[str, ...]]:
    slow = SimSettings(refit_seconds=REFIT_S)
    with SimInThread(slow) as first, SimInThread(slow) as second, SimInThread(slow) as third:
        yield first.url, second.url, third.url


async def ask(router: RunningRouter, group: str, body: object = None) -> httpx2.Response:
    headers = {"x-sglang-router-group": group} if group else {}
    return await router.client.post("/v1/images/generations", json=body or IMAGE, headers=headers)


class Series:
    """Members of one group, one after the other, until told to stop: where each was made, and on which weights."""

    def __init__(self, router: RunningRouter, group: str) -> None:
        self._router = router
        self._group = group
        self.stop = False
        self.made: list[tuple[str, int]] = []

    async def run(self) -> None:
        while not self.stop:
            response = await ask(self._router, self._group)
            assert response.status_code == 200, response.text
            version = VERSIONS.index(response.headers["x-sglang-router-weight-version"])
            self.made.append((response.headers["x-sglang-router-worker"], version))

    @property
    def versions(self) -> list[int]:
        return [version for _, version in self.made]


@pytest.mark.parametrize("admit", ["", "&admit=new"])
async def test_in_a_rolling_refit_no_group_falls_back_to_older_weights(workers: tuple[str, ...], admit: str) -> None:
    async with running(*workers) as router:
        series = [Series(router, group) for group in ("kept-1", "kept-2", "spread-1;spread", "spread-2;spread")]
        tasks = [asyncio.ensure_future(each.run()) for each in series]
        for version in VERSIONS[1:]:
            body = {"model_path": f"sim/{version}", "weight_version": version}
            status, answer = await router.post(f"/update_weights_from_disk?mode=rolling{admit}", body)
            assert (status, answer["success"]) == (200, True), answer
        for each in series:
            each.stop = True
        await asyncio.gather(*tasks)
        latest = [await ask(router, group) for group in ("kept-1", "spread-1;spread")]
        assert {response.headers["x-sglang-router-weight-version"] for response in latest} == {VERSIONS[-1]}
    for each in series:
        assert each.versions == sorted(each.versions)
        # The refits took their time: it saw what it was to keep apart.
        assert len(set(each.versions)) > 1
    for kept in series[:2]:
        # It moved when its worker was taken, and never back and forth.
        moves = sum(one[0] != other[0] for one, other in zip(kept.made, kept.made[1:], strict=False))
        assert moves <= len(workers) * len(VERSIONS[1:])


async def test_a_group_stays_on_a_worker_and_a_spread_one_goes_round(workers: tuple[str, ...]) -> None:
    async with running(*workers) as router:
        kept = await asyncio.gather(*(ask(router, "kept") for _ in range(9)))
        assert len({response.headers["x-sglang-router-worker"] for response in kept}) == 1
        spread = [(await ask(router, "g;spread")).headers["x-sglang-router-worker"] for _ in range(9)]
        assert [len(set(spread[at : at + 3])) for at in (0, 3, 6)] == [3, 3, 3]


async def test_a_group_is_dropped_from_the_queue_by_its_name(workers: tuple[str, ...]) -> None:
    async with running(*workers) as router:
        await router.post("/pause_generation")
        dropped = [asyncio.ensure_future(ask(router, group)) for group in ("g", "g;spread")]
        stays = asyncio.ensure_future(ask(router, "h"))
        await eventually(lambda: router.get("/health_workers"), lambda seen: seen[1]["queue"]["requests"] == 3)
        assert await router.post("/abort_request", {"group": "g"}) == (200, {"aborted": 2})
        assert [(await each).json()["code"] for each in dropped] == ["aborted", "aborted"]
        await router.post("/continue_generation")
        assert (await stays).status_code == 200


async def test_prompt_and_seed_say_the_worker_whoever_asks_first_and_after_a_restart(workers: tuple[str, ...]) -> None:
    async def place(router: RunningRouter, seed: int) -> str:
        response = await ask(router, "", IMAGE | {"seed": seed})
        return str(response.headers["x-sglang-router-worker"])

    seeds = list(range(12))
    async with running(*workers, routing_algorithm="consistent-hash") as router:
        first = dict(zip(seeds, await asyncio.gather(*(place(router, seed) for seed in seeds)), strict=True))
    async with running(*reversed(workers), routing_algorithm="consistent-hash") as router:
        second = {seed: await place(router, seed) for seed in reversed(seeds)}
    assert first == second
    assert len(set(first.values())) > 1
