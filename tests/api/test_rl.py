import asyncio
import json

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.raw_worker import answering, reply, serving
from support.running import RunningRouter, eventually, running

IMAGE = {"prompt": "a lighthouse", "size": "64x64", "num_inference_steps": 2, "seed": 1}
NOBODY = {"error": "No healthy workers available in the pool", "code": "no_eligible_worker"}


def rows(*bodies: tuple[str, object]) -> list[dict[str, object]]:
    return [{"worker_url": url, "status_code": 200, "body": body} for url, body in bodies]


async def test_workers_are_put_to_sleep_and_woken_and_both_are_idempotent(
    image_worker: SimInThread, video_worker: SimInThread
) -> None:
    a, b = image_worker.url, video_worker.url
    async with running(a, b) as router:
        released = {"success": True, "sleeping": True, "message": "released GPU memory (moved active modules to CPU)"}
        status, body = await router.post("/release_memory_occupation")
        assert (status, body) == (200, {"results": rows((a, released), (b, released)), "success": True, "skipped": []})
        assert await router.statuses() == {a: "sleeping", b: "sleeping"}

        asleep = {"success": True, "sleeping": True, "message": "already sleeping"}
        assert await router.post("/release_memory_occupation") == (
            200,
            {
                "results": rows((a, asleep), (b, asleep)),
                "success": True,
                "skipped": [],
                "message": "all workers are already asleep",
            },
        )

        status, body = await router.post("/resume_memory_occupation")
        assert (status, body["success"], [row["body"]["sleeping"] for row in body["results"]]) == (
            200,
            True,
            [False, False],
        )
        awake = {"success": True, "sleeping": False, "message": "already awake"}
        assert await router.post("/resume_memory_occupation") == (
            200,
            {
                "results": rows((a, awake), (b, awake)),
                "success": True,
                "skipped": [],
                "message": "all workers are already awake",
            },
        )
        assert await router.statuses() == {a: "active", b: "active"}


async def test_sleep_waits_for_work_to_end(slow_router: RunningRouter, slow_worker: SimInThread) -> None:
    work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
    await slow_router.until_in_flight(slow_worker.url, 1)
    release = asyncio.ensure_future(slow_router.post("/release_memory_occupation"))
    await slow_router.until_status(slow_worker.url, "draining")
    assert (await work)[0] == 200
    assert (await release)[1]["success"] is True
    assert (await slow_router.post("/v1/images/generations", IMAGE))[0] == 503
    await slow_router.post("/resume_memory_occupation")
    assert (await slow_router.post("/v1/images/generations", IMAGE))[0] == 200


async def test_a_drain_that_takes_too_long_is_given_up_and_the_worker_serves_again(
    slow_router: RunningRouter, slow_worker: SimInThread
) -> None:
    work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
    await slow_router.until_in_flight(slow_worker.url, 1)
    status, body = await slow_router.post("/release_memory_occupation?timeout_s=0.1")
    assert (status, body["success"]) == (200, False)
    assert [(row["status_code"], sorted(row["body"])) for row in body["results"]] == [(504, ["error"])]
    assert (await slow_router.worker(slow_worker.url))["status"] == "active"
    assert (await work)[0] == 200


async def test_waking_calls_a_sleep_off_that_has_not_begun(
    slow_router: RunningRouter, slow_worker: SimInThread
) -> None:
    work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
    await slow_router.until_in_flight(slow_worker.url, 1)
    release = asyncio.ensure_future(slow_router.post("/release_memory_occupation"))
    await slow_router.until_status(slow_worker.url, "draining")
    assert (await slow_router.post("/resume_memory_occupation"))[1]["success"] is True
    assert (await slow_router.worker(slow_worker.url))["status"] == "active"
    status, body = await release
    assert (status, body["success"], body["results"][0]["status_code"]) == (200, False, 409)
    assert (await work)[0] == 200


async def test_waking_leaves_an_operators_hold_alone(router: RunningRouter, image_worker: SimInThread) -> None:
    path = f"/workers/{image_worker.url}"
    await router.ask("PUT", path, json={"state": "drained"})
    await router.post("/resume_memory_occupation")
    assert (await router.worker(image_worker.url))["status"] == "draining"


async def test_a_worker_that_refuses_to_sleep_says_why_and_serves_on() -> None:
    with SimInThread() as worker:
        worker.faults(refuse_release=True)
        async with running(worker.url) as router:
            status, body = await router.post("/release_memory_occupation")
            assert (status, body["success"], body["results"][0]["status_code"]) == (200, False, 400)
            assert (await router.worker(worker.url))["status"] == "active"


async def test_a_dead_worker_is_a_502_row_and_does_not_hide_the_others(image_worker: SimInThread) -> None:
    with SimInThread() as doomed:
        async with running(doomed.url, image_worker.url, health_check_interval_s=60) as router:
            doomed.crash()
            await router.until_status(doomed.url, "quarantined")
            status, body = await router.post("/release_memory_occupation")
            assert (status, body["success"]) == (200, False)
            assert [(row["worker_url"], row["status_code"]) for row in body["results"]] == [
                (doomed.url, 502),
                (image_worker.url, 200),
            ]
            await router.post("/resume_memory_occupation")


async def test_a_selector_narrows_any_fan_out(image_worker: SimInThread, video_worker: SimInThread) -> None:
    a, b = image_worker.url, video_worker.url
    async with running(a, b) as router:
        await router.post(f"/release_memory_occupation?selector={b}")
        assert await router.statuses() == {a: "active", b: "sleeping"}
        await router.post("/resume_memory_occupation?selector=all")
        await router.ask("PUT", f"/workers/{a}", json={"labels": {"zone": "x"}})
        _, body = await router.get("/server_info?selector=zone=x")
        assert [row["worker_url"] for row in body["results"]] == [a]
        _, body = await router.get(f"/server_info?selector={b},{a}")
        assert [row["worker_url"] for row in body["results"]] == [a, b]


async def test_a_fan_out_passes_path_query_and_body_on_byte_for_byte() -> None:
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(reply(200, b"[1]"), seen)) as url, running(str(url)) as router:
        seen.clear()
        response = await router.client.post(
            "/any%2Froute/%7E?a=%20+&selector=all&b=[x]&timeout_s=5",
            content=b"\x00\xff raw",
            headers={"content-type": "application/x-strange", "traceparent": "00-a-b-01"},
        )
        head, body = seen[-1]
    assert response.json()["results"] == rows((str(url), [1]))
    assert head.startswith(b"POST /any%2Froute/%7E?a=%20+&b=[x] HTTP/1.1\r\n")
    assert b"content-type: application/x-strange\r\n" in head
    assert b"content-length: 6\r\n" in head
    assert b"traceparent: 00-a-b-01\r\n" in head
    assert b"x-sglang-router" not in head
    assert body == b"\x00\xff raw"


async def test_a_long_body_reaches_every_worker_whole() -> None:
    seen: list[tuple[bytes, bytes]] = []
    handler = answering(reply(200, b"{}"), seen)
    async with serving(handler) as first, serving(handler) as second, running(str(first), str(second)) as router:
        seen.clear()
        content = bytes(range(256)) * 12_000
        status, body = await router.ask("PUT", "/blob?selector=all", content=content)
        assert (status, body["success"], len(body["results"])) == (200, True, 2)
        assert [sent == content for head, sent in seen if head.startswith(b"PUT")] == [True, True]


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (reply(200, b"plain words", "text/plain"), 200, {"raw": "plain words"}),
        (reply(418, b'{"detail":"no"}'), 418, {"detail": "no"}),
        (reply(200, b"NaN"), 200, {"raw": "NaN"}),
        (b"", 502, {"error": "Server disconnected without sending a response."}),
    ],
)
async def test_each_answer_becomes_a_row(raw: bytes, status: int, body: object) -> None:
    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> "asyncio.Future[None]":
        return asyncio.ensure_future(answer(reader, writer))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(raw if b"/odd" in head else reply(200, b"{}"))

    async with serving(handle) as url, running(str(url)) as router:
        assert (await router.get("/odd?selector=all"))[1]["results"] == [
            {"worker_url": str(url), "status_code": status, "body": body}
        ]


async def test_a_reply_of_more_than_a_mebibyte_becomes_a_502_row() -> None:
    long = reply(200, json.dumps("x" * 2**20).encode())

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(long if b"/long" in head else reply(200, b"{}"))

    async with serving(handle) as url, running(str(url)) as router:
        _, body = await router.get("/long?selector=all")
    assert body["results"] == [
        {
            "worker_url": str(url),
            "status_code": 502,
            "body": {"error": "the reply is longer than 1048576 bytes"},
        }
    ]


async def test_quarantined_and_sleeping_workers_are_skipped_with_the_reason(
    image_worker: SimInThread, video_worker: SimInThread
) -> None:
    a, b = image_worker.url, video_worker.url
    async with running(a, b) as router:
        await router.ask("PUT", f"/workers/{a}", json={"is_dead": True})
        _, body = await router.get("/stats?selector=all")
        assert ([row["worker_url"] for row in body["results"]], body["skipped"], body["success"]) == (
            [b],
            [{"worker_url": a, "reason": "quarantined"}],
            True,
        )
        await router.post(f"/release_memory_occupation?selector={b}")
        status, error = await router.get("/stats?selector=all")
        assert (status, error) == (503, {**NOBODY, "by_status": {"quarantined": 1, "sleeping": 1}})
        await router.post("/resume_memory_occupation")


async def test_checksums_are_asked_asleep_too_and_compared(image_worker: SimInThread) -> None:
    with SimInThread(SimSettings(weights_seed=7)) as other:
        async with running(image_worker.url) as router:
            await router.post("/release_memory_occupation")
            status, body = await router.ask("POST", "/get_weights_checksum")
            assert (status, body["success"], body["consistent"]) == (200, True, True)
            assert "transformer" in body["results"][0]["body"]
            await router.post("/resume_memory_occupation")
            await router.post("/workers", {"url": other.url})
            _, body = await router.post("/get_weights_checksum", {"module_names": ["transformer"]})
            assert (body["success"], body["consistent"]) == (True, False)
            assert [list(row["body"]) for row in body["results"]] == [["transformer"], ["transformer"]]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "path",
    [
        "/release_memory_occupation",
        "/resume_memory_occupation",
        "/get_weights_checksum",
        "/update_weights_from_tensor_checker",
        "/anything?selector=all",
    ],
)
async def test_without_workers_a_fan_out_is_503(shared_empty: RunningRouter, path: str) -> None:
    assert await shared_empty.post(path) == (503, {**NOBODY, "by_status": {}})


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("selector=", 400, "invalid_field"),
        ("selector=http://127.0.0.1:1", 404, "unknown_worker"),
        ("selector=gpu-1", 400, "invalid_worker_url"),
        ("selector=all&selector=all", 400, "invalid_field"),
        ("timeout_s=soon", 400, "invalid_field"),
        ("timeout_s=0", 400, "invalid_field"),
        ("mode=immediate", 400, "invalid_field"),
        ("refit=begin", 400, "invalid_field"),
    ],
)
@pytest.mark.parametrize("path", ["/release_memory_occupation", "/resume_memory_occupation", "/get_weights_checksum"])
async def test_a_wrong_parameter_is_refused_and_no_worker_is_touched(
    shared_router: RunningRouter, image_worker: SimInThread, path: str, query: str, status: int, code: str
) -> None:
    answer, error = await shared_router.post(f"{path}?{query}")
    assert (answer, error["code"]) == (status, code)
    assert (await shared_router.worker(image_worker.url))["status"] == "active"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", ["/reset_weights", "/v1/load_lora_adapter", "/x/release_memory_occupation/y"])
async def test_a_state_changing_route_that_is_not_known_goes_to_nobody(shared_router: RunningRouter, path: str) -> None:
    status, error = await shared_router.post(path)
    assert (status, error["code"], error["path"]) == (501, "fleet_route_unknown", path)
    assert "?selector=" in error["error"]


async def test_a_held_queue_keeps_work_until_it_goes_on(router: RunningRouter) -> None:
    assert await router.post("/pause_generation") == (200, {"status": "paused", "queued": 0})
    work = asyncio.ensure_future(router.post("/v1/images/generations", IMAGE))

    async def queued() -> int:
        return int((await router.post("/pause_generation"))[1]["queued"])

    await eventually(queued, lambda count: count == 1)
    status, body = await router.post("/continue_generation")
    assert (status, body["status"]) == (200, "running")
    assert (await work)[0] == 200


async def test_a_pause_with_a_limit_ends_by_itself(router: RunningRouter) -> None:
    await router.post("/pause_generation", {"timeout_s": 0.05})
    assert (await router.post("/v1/images/generations", IMAGE))[0] == 200


async def test_aborted_work_gets_499(router: RunningRouter) -> None:
    await router.post("/pause_generation")
    work = asyncio.ensure_future(router.post("/v1/images/generations", IMAGE))

    async def aborted() -> int:
        return int((await router.post("/abort_request", {"all": True}))[1]["aborted"])

    await eventually(aborted, lambda count: count == 1)
    status, error = await work
    assert (status, error["code"]) == (499, "aborted")


@pytest.mark.parametrize(
    ("named", "header"), [({"rid": "r-7"}, "x-request-id"), ({"group": "r-7"}, "x-sglang-router-group")]
)
async def test_aborted_work_is_found_by_its_headers(router: RunningRouter, named: dict[str, str], header: str) -> None:
    await router.post("/pause_generation")
    work = asyncio.ensure_future(router.ask("POST", "/v1/images/generations", json=IMAGE, headers={header: "r-7"}))
    other = asyncio.ensure_future(router.post("/v1/images/generations", IMAGE))

    async def aborted() -> int:
        return int((await router.post("/abort_request", named))[1]["aborted"])

    await eventually(aborted, lambda count: count == 1)
    assert (await work)[0] == 499
    await router.post("/continue_generation")
    assert (await other)[0] == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("body", [b"{}", b'{"all":false}', b'{"rid":""}', b'{"all":true,"group":"x"}', b"[]", b"{"])
async def test_a_wrong_abort_drops_nothing(shared_router: RunningRouter, body: bytes) -> None:
    status, _ = await shared_router.ask("POST", "/abort_request", content=body)
    assert status == 400
