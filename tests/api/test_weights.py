from typing import Any

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter, eventually, running


async def test_the_ledger_is_shown(router: RunningRouter, image_worker: SimInThread) -> None:
    status, shown = await router.get("/weights")
    (group,) = shown["groups"].values()
    assert (status, shown["ungrouped"], group["target"], group["sequence"]) == (200, [], None, 0)
    assert group["workers"] == [
        {"worker_url": image_worker.url, "weight_version": "0", "status": "active", "reason": ""}
    ]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_parameter_that_is_given_twice_is_refused(shared_empty: RunningRouter) -> None:
    assert (await shared_empty.get("/weights?a=1&a=2"))[0] == 400


async def test_reported_weights_become_the_target_and_are_in_every_reply() -> None:
    with SimInThread() as one, SimInThread() as other:
        async with running(one.url, other.url) as router:
            status, reply = await router.post("/weights/reported", {"weight_version": "pushed"})
            assert (status, reply["success"], reply["weight_version"], reply["skipped"]) == (200, True, "pushed", [])
            assert [row["worker_url"] for row in reply["results"]] == [one.url, other.url]

            async def group() -> Any:
                (shown,) = (await router.get("/weights"))[1]["groups"].values()
                return shown

            shown = await eventually(group, lambda shown: shown["checksums"] is not None)
            assert (shown["target"], shown["replayable"]) == ("pushed", False)
            assert list(shown["checksums"]) == ["transformer"]
            image = await router.client.post(
                "/v1/images/generations", json={"prompt": "x", "size": "64x64", "num_inference_steps": 2}
            )
            assert (image.status_code, image.headers["x-sglang-router-weight-version"]) == (200, "pushed")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "weight_version"),
        ({"weight_version": ""}, "weight_version"),
        ({"weight_version": "x" * 257}, "weight_version"),
        ({"weight_version": "a\nb"}, "weight_version"),
        ({"weight_version": 1.5}, "weight_version"),
        ({"weight_version": "a", "workers": []}, "workers"),
        ({"weight_version": "a", "workers": "http://a:1"}, "workers"),
        ({"weight_version": "a", "else": 1}, "else"),
    ],
)
async def test_a_bad_report_is_refused(shared_router: RunningRouter, body: object, field: str) -> None:
    status, reply = await shared_router.post("/weights/reported", body)
    assert (status, reply["code"], reply["field"]) == (400, "invalid_field", field)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_report_of_an_unknown_worker_is_refused(shared_router: RunningRouter) -> None:
    body = {"weight_version": "a", "workers": ["http://127.0.0.1:9"]}
    status, reply = await shared_router.post("/weights/reported", body)
    assert (status, reply["code"]) == (404, "unknown_worker")


async def test_a_report_without_workers_is_refused(empty: RunningRouter) -> None:
    status, reply = await empty.post("/weights/reported", {"weight_version": "a"})
    assert (status, reply["code"]) == (503, "no_eligible_worker")


async def test_one_worker_may_be_named_by_its_url() -> None:
    with SimInThread() as one, SimInThread() as other:
        async with running(one.url, other.url) as router:
            status, reply = await router.post(
                "/weights/reported", {"weight_version": "pushed", "workers": [f"{other.url}/"]}
            )
            assert (status, [row["worker_url"] for row in reply["results"]]) == (200, [other.url])
            assert await router.statuses() == {one.url: "stale", other.url: "active"}
            assert (await router.worker(one.url))["reason"] == (
                "it does not have 'pushed'; weights 'pushed' did not come through the router"
            )
