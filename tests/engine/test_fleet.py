"""Real workers behind the router, both started by its command: bytes, weights, sleep, deaths, and who leaves."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from engine.fleet import EngineFleet, samples_of
from engine.likeness import MEASURED
from engine.worker import PAUSE_S
from support.client import Client, request
from support.deadlines import eventually, eventually_equal

IMAGE = {"prompt": "a fox", "size": "64x64", "num_inference_steps": 4, "seed": 3}
LONG = {"width": 256, "height": 256, "num_inference_steps": 40}  # seconds, time enough to leave or to be killed in
ADDED = {"x-request-id", "x-sglang-router-worker", "x-sglang-router-queue-ms", "x-sglang-router-weight-version"}


@pytest.fixture(autouse=True)
def well(fleet: EngineFleet) -> None:
    """Both workers serve, and nothing is left of the test before."""
    fleet.wait_until_active()
    fleet.wait_until_idle()


def headers(reply: httpx2.Response, without: set[str]) -> list[tuple[str, str]]:
    return [(k.decode().lower(), v.decode()) for k, v in reply.headers.raw if k.decode().lower() not in without]


def image_of(reply: httpx2.Response) -> dict[str, Any]:
    """Give the reply without its id, times and path, which no two runs share; the picture stays."""
    document = reply.json()
    (entry,) = document.pop("data")
    return {k: v for k, v in {**document, **entry}.items() if k == "b64_json" or k not in MEASURED}


def test_an_image_through_the_router_is_the_workers_own(fleet: EngineFleet) -> None:
    through = fleet.post("/v1/images/generations", response_format="b64_json", **IMAGE)
    itself = fleet.post(
        "/v1/images/generations", through.headers["x-sglang-router-worker"], response_format="b64_json", **IMAGE
    )
    assert (through.status_code, image_of(through)) == (200, image_of(itself))
    assert headers(through, ADDED | {"date", "content-length"}) == headers(itself, {"date", "content-length"})
    assert {name for name, _ in headers(through, set())} >= ADDED


def test_a_file_through_the_router_is_the_workers_byte_for_byte(fleet: EngineFleet) -> None:
    made = fleet.post("/v1/images/generations", response_format="url", **IMAGE)
    path = made.json()["data"][0]["url"]
    through = httpx2.get(fleet.url + path, timeout=10.0)
    itself = httpx2.get(made.headers["x-sglang-router-worker"] + path, timeout=10.0)
    assert (through.status_code, through.content) == (200, itself.content)
    assert through.content[:3] == b"\xff\xd8\xff"
    assert headers(through, ADDED | {"date"}) == headers(itself, {"date"})


def test_a_rollout_is_the_same_through_the_router_and_on_either_worker(fleet: EngineFleet) -> None:
    through = fleet.made(5)
    assert [fleet.made(5, at=url) for url in fleet.urls()] == [through, through]
    assert through[0]["dit_trajectory"]["latents"]["shape"][0] > 1


def test_many_at_once_are_spread_over_both_and_each_gets_its_own(fleet: EngineFleet) -> None:
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(fleet.rollout, range(8)))
    assert [reply.status_code for reply in replies] == [200] * 8
    assert {reply.headers["x-sglang-router-worker"] for reply in replies} == set(fleet.urls())
    one = fleet.urls()[0]
    assert [samples_of(reply) for reply in replies] == [fleet.made(seed, at=one) for seed in range(8)]


def test_a_client_that_leaves_stops_nothing_and_its_worker_stays_charged_until_it_is_done(fleet: EngineFleet) -> None:
    body = httpx2.Request("POST", fleet.url, json={"prompt": "slow", "seed": 1, **LONG}).read()
    with Client(fleet.router.port) as client:
        client.send(request(b"POST", b"/rollout/generate", b"Content-Type: application/json", body=body))
        eventually(fleet.router.in_flight, lambda counts: sum(counts.values()) == 1)
    (busy,) = [url for url, count in fleet.router.in_flight().items() if count]
    # the engine has one queue: what is sent behind the work that nobody waits for is answered after it
    fleet.post("/get_weights_checksum", busy)
    eventually_equal(fleet.router.in_flight, dict.fromkeys(fleet.urls(), 0))


def test_a_refit_changes_both_workers_and_the_next_one_changes_them_back(fleet: EngineFleet) -> None:
    before, made = fleet.checksums(), fleet.made(7)
    assert len(set(before.values())) == 1
    refit = fleet.refit("other-sd3-medium", "other")
    assert (refit.status_code, refit.json()["success"], refit.json()["weight_version"]) == (200, True, "other")
    after = fleet.checksums()
    assert (len(set(after.values())), after.keys()) == (1, before.keys())
    assert set(after.values()).isdisjoint(before.values())
    reply = fleet.rollout(7)
    assert (reply.headers["x-sglang-router-weight-version"], samples_of(reply) != made) == ("other", True)
    assert fleet.refit("tiny-sd3-medium", "first").status_code == 200
    assert (fleet.checksums(), fleet.made(7)) == (before, made)


def test_a_mistyped_refit_is_refused_by_the_engine_and_changes_nothing(fleet: EngineFleet) -> None:
    before = fleet.checksums()
    refit = fleet.refit("nowhere", "lost")
    assert refit.json()["success"] is False
    assert {row["status_code"] for row in refit.json()["results"]} == {400}
    fleet.wait_until_active()
    assert (fleet.checksums(), fleet.rollout(1).status_code) == (before, 200)


def test_a_fleet_sleeps_and_wakes_and_is_as_it_was(fleet: EngineFleet) -> None:
    before, made = fleet.checksums(), fleet.made(9)
    asleep = fleet.post("/release_memory_occupation")
    assert (asleep.status_code, asleep.json()["success"]) == (200, True)
    assert {row["body"]["sleeping"] for row in asleep.json()["results"]} == {True}
    assert set(fleet.router.statuses().values()) == {"sleeping"}
    refused = fleet.rollout(9)
    assert (refused.status_code, refused.json()["code"]) == (503, "no_routable_worker")
    # what the engine itself would have said, and how little it shows
    itself = fleet.rollout(9, at=fleet.urls()[0])
    assert (itself.status_code, "sleeping" in itself.json()["detail"]) == (500, True)
    assert httpx2.get(fleet.urls()[0] + "/health", timeout=10.0).status_code == 200
    assert fleet.checksums() == before
    awake = fleet.post("/resume_memory_occupation")
    assert (awake.status_code, awake.json()["success"]) == (200, True)
    assert (fleet.checksums(), fleet.made(9)) == (before, made)


def test_a_worker_killed_in_its_work_costs_time_and_comes_back_on_the_fleets_weights(fleet: EngineFleet) -> None:
    assert fleet.refit("other-sd3-medium", "late").status_code == 200
    checksums = fleet.checksums()

    async def work_through_a_death() -> tuple[str, list[httpx2.Response]]:
        async with httpx2.AsyncClient(base_url=fleet.url, timeout=120.0) as client:
            bodies = [{"prompt": "slow", "seed": seed, **LONG} for seed in range(4)]
            sent = [asyncio.ensure_future(client.post("/rollout/generate", json=body)) for body in bodies]
            await asyncio.to_thread(eventually, fleet.router.in_flight, lambda counts: all(counts.values()))
            victim = fleet.urls()[0]
            await asyncio.to_thread(fleet.process(victim).send_signal, signal.SIGKILL)
            return victim, await asyncio.gather(*sent)

    victim, replies = asyncio.run(work_through_a_death())
    assert [reply.status_code for reply in replies] == [200] * 4
    assert {reply.headers["x-sglang-router-weight-version"] for reply in replies} == {"late"}
    fleet.wait_until_active("late")
    assert fleet.checksums() == checksums
    assert fleet.made(11, at=victim) == fleet.made(11)


def test_a_worker_whose_scheduler_died_alone_is_started_again(fleet: EngineFleet) -> None:
    """Its HTTP process lives on for ever, with /health 503 and /liveness 200."""
    version = fleet.workers()[0]["weight_version"]
    victim, checksums = fleet.urls()[0], fleet.checksums()
    server = fleet.process(victim)
    for scheduler in server.children(recursive=True):
        scheduler.kill()
    eventually(server.is_running, lambda running: not running, within_s=60.0, every_s=PAUSE_S)
    fleet.wait_until_active(version)
    assert fleet.checksums() == checksums
