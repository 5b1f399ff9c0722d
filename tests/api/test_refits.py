import asyncio
import base64
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.tensors import to_safetensors
from sglang_diffusion_routing.sim.weights import shapes_of
from support.raw_worker import read_request, reply, serving
from support.running import RunningRouter, eventually, running

IMAGE = {"prompt": "a lighthouse", "size": "64x64", "num_inference_steps": 2, "seed": 1}
DISK = "/update_weights_from_disk"
TENSOR = "/update_weights_from_tensor"
MIB = 2**20


@pytest.fixture
def pair() -> Iterator[tuple[SimInThread, SimInThread]]:
    """Two workers of the same model, fresh for every test: weights stay changed."""
    with SimInThread() as first, SimInThread() as second:
        yield first, second


@pytest.fixture
async def fleet(pair: tuple[SimInThread, SimInThread]) -> AsyncIterator[RunningRouter]:
    async with running(pair[0].url, pair[1].url) as router:
        yield router


async def versions(router: RunningRouter) -> list[str | None]:
    _, listed = await router.get("/workers")
    return [worker["weight_version"] for worker in listed["workers"]]


async def checksums(router: RunningRouter) -> list[Any]:
    _, body = await router.post("/get_weights_checksum")
    assert body["success"], body
    return [row["body"]["transformer"] for row in body["results"]]


async def test_new_weights_reach_every_worker(fleet: RunningRouter, pair: tuple[SimInThread, SimInThread]) -> None:
    before = await checksums(fleet)
    status, body = await fleet.post(DISK, {"model_path": "sim/better", "weight_version": "step-5"})
    assert status == 200
    assert [(row["worker_url"], row["status_code"], row["body"]["success"]) for row in body["results"]] == [
        (pair[0].url, 200, True),
        (pair[1].url, 200, True),
    ]
    assert (body["success"], body["weight_version"], body["skipped"]) == (True, "step-5", [])
    after = await checksums(fleet)
    assert (len(set(before)), len(set(after)), before[0] != after[0]) == (1, 1, True)
    assert await versions(fleet) == ["step-5", "step-5"]
    assert set((await fleet.statuses()).values()) == {"active"}


async def test_replies_carry_the_version_they_were_made_with(fleet: RunningRouter) -> None:
    await fleet.post(DISK, {"model_path": "sim/better", "weight_version": "v7"})
    response = await fleet.client.post("/v1/images/generations", json=IMAGE)
    assert response.headers["x-sglang-router-weight-version"] == "v7"


async def test_versions_that_nobody_names_are_counted(fleet: RunningRouter) -> None:
    await fleet.post(DISK, {"model_path": "sim/a", "weight_version": "2"})
    assert "weight_version" not in (await fleet.post(DISK, {"model_path": "/nonexistent/model"}))[1]
    given = [(await fleet.post(DISK, {"model_path": f"sim/{n}"}))[1]["weight_version"] for n in "bcd"]
    assert given == ["1", "3", "4"]


@pytest.mark.parametrize(
    ("query", "body", "version"),
    [
        ("?weight_version=q", {}, "q"),
        ("?weight_version=q", {"weight_version": "q"}, "q"),
        ("", {"weight_version": 12}, "12"),
        ("?weight_version=sch%C3%B6n", {}, "schön"),
    ],
)
async def test_a_version_comes_in_the_query_or_in_the_body(
    fleet: RunningRouter, query: str, body: dict[str, object], version: str
) -> None:
    _, reply_body = await fleet.post(DISK + query, {"model_path": "sim/a", **body})
    assert reply_body["weight_version"] == version


async def test_work_waits_while_weights_change_and_none_is_refused() -> None:
    with SimInThread(SimSettings(refit_seconds=0.4, overhead_seconds=0.05)) as worker:
        async with running(worker.url, max_concurrency_per_worker=1) as router:
            before = [asyncio.ensure_future(router.client.post("/v1/images/generations", json=IMAGE)) for _ in range(4)]
            await router.until_in_flight(worker.url, 1)
            refit = asyncio.ensure_future(router.post(DISK, {"model_path": "sim/a", "weight_version": "new"}))
            await router.until_status(worker.url, "updating")
            after = [asyncio.ensure_future(router.client.post("/v1/images/generations", json=IMAGE)) for _ in range(4)]
            replies = await asyncio.gather(*before, *after)
            assert [reply.status_code for reply in replies] == [200] * 8
            made_with = [reply.headers["x-sglang-router-weight-version"] for reply in replies]
            assert made_with[:1] == ["0"]
            assert made_with[4:] == ["new"] * 4
            assert (await refit)[1]["success"] is True


async def test_a_mistyped_path_costs_nothing(fleet: RunningRouter) -> None:
    before = await checksums(fleet)
    status, body = await fleet.post(DISK, {"model_path": "/nonexistent/model"})
    assert (status, body["success"], "weight_version" in body) == (200, False, False)
    assert [row["status_code"] for row in body["results"]] == [400, 400]
    assert set((await fleet.statuses()).values()) == {"active"}
    assert (await versions(fleet), await checksums(fleet)) == (["0", "0"], before)
    assert (await fleet.post("/v1/images/generations", IMAGE))[0] == 200


async def test_a_mistyped_path_after_a_refit_costs_nothing_either(fleet: RunningRouter) -> None:
    await fleet.post(DISK, {"model_path": "sim/a", "weight_version": "a"})
    await fleet.post(DISK, {"model_path": "/nonexistent/model", "weight_version": "b"})
    await eventually(fleet.statuses, lambda statuses: set(statuses.values()) == {"active"})
    assert await versions(fleet) == ["a", "a"]


async def test_a_worker_that_missed_a_refit_gets_no_work(pair: tuple[SimInThread, SimInThread]) -> None:
    async with running(pair[0].url, pair[1].url, resync=False) as fleet:
        pair[1].faults(refuse_refits=True)
        _, body = await fleet.post(DISK, {"model_path": "sim/a", "weight_version": "a"})
        assert (body["success"], body["weight_version"]) == (False, "a")
        assert await fleet.statuses() == {pair[0].url: "active", pair[1].url: "stale"}
        replies = [await fleet.client.post("/v1/images/generations", json=IMAGE) for _ in range(3)]
        assert {reply.headers["x-sglang-router-worker"] for reply in replies} == {pair[0].url}
        pair[1].faults(refuse_refits=False)
        await fleet.post(DISK, {"model_path": "sim/b", "weight_version": "b"})
        assert set((await fleet.statuses()).values()) == {"active"}


async def test_sleeping_and_quarantined_workers_are_skipped(
    fleet: RunningRouter, pair: tuple[SimInThread, SimInThread]
) -> None:
    await fleet.post(f"/release_memory_occupation?selector={pair[1].url}")
    _, body = await fleet.post(DISK, {"model_path": "sim/a"})
    assert (len(body["results"]), body["skipped"]) == (1, [{"worker_url": pair[1].url, "reason": "sleeping"}])
    await fleet.post("/release_memory_occupation")
    status, error = await fleet.post(DISK, {"model_path": "sim/b"})
    assert (status, error["code"]) == (503, "no_eligible_worker")


async def test_refits_go_one_after_the_other(fleet: RunningRouter) -> None:
    replies = await asyncio.gather(*(fleet.post(DISK, {"model_path": f"sim/{n}", "weight_version": n}) for n in "abc"))
    assert [body["success"] for _, body in replies] == [True, True, True]
    first, second = await versions(fleet)
    assert first == second
    assert first in {"a", "b", "c"}
    assert len(set(await checksums(fleet))) == 1


async def test_a_refit_goes_on_when_its_client_leaves() -> None:
    with SimInThread(SimSettings(refit_seconds=0.3)) as worker:
        async with running(worker.url) as router:
            async with httpx2.AsyncClient(base_url=router.client.base_url, trust_env=False) as hasty:
                with pytest.raises(httpx2.ReadTimeout):
                    await hasty.post(DISK, json={"model_path": "sim/a", "weight_version": "a"}, timeout=0.1)
            shown = await eventually(lambda: router.worker(worker.url), lambda shown: shown["weight_version"] == "a")
            assert shown["status"] == "active"


async def test_a_drain_that_takes_too_long_leaves_the_worker_as_it_was(
    slow_router: RunningRouter, slow_worker: SimInThread
) -> None:
    work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
    await slow_router.until_in_flight(slow_worker.url, 1)
    _, body = await slow_router.post(DISK + "?timeout_s=0.1", {"model_path": "sim/a"})
    assert (body["success"], body["results"][0]["status_code"]) == (False, 504)
    assert (await work)[0] == 200
    assert (await slow_router.worker(slow_worker.url))["weight_version"] == "0"
    assert (await slow_router.post("/v1/images/generations", IMAGE))[0] == 200


async def test_a_lost_update_takes_the_worker_out() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        if b"/update_weights" not in head:
            writer.write(reply(200, b'{"transformer":"1"}' if b"checksum" in head else b"{}"))

    async with serving(handle) as url, running(str(url), health_check_interval_s=60) as router:
        _, body = await router.post(DISK, {"model_path": "sim/a"})
        assert (body["success"], body["results"][0]["status_code"]) == (False, 502)
        worker = await router.worker(str(url))
        assert (worker["is_dead"], worker["weight_version"]) == (True, None)


@pytest.mark.parametrize("route", [DISK, "/v1/set_lora", "/v1/merge_lora_weights", "/update_weights_from_tensor"])
async def test_the_body_reaches_every_worker_byte_for_byte(route: str) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(reply(200, b'{"success":true,"message":"done"}'))

    content = b' {"model_path" : "x",  "lora_nickname":["a"] , "n": 1.50}\n'
    async with serving(handle) as first, serving(handle) as second, running(str(first), str(second)) as router:
        status, body = await router.ask("POST", f"{route}?weight_version=9&keep=%20", content=content)
        assert (status, body["success"], body["weight_version"]) == (200, True, "9")
    sent = [(head.split(b"\r\n")[0], body) for head, body in seen if route.encode() in head]
    assert sent == [(f"POST {route}?keep=%20 HTTP/1.1".encode(), content)] * 2


async def test_a_lora_is_a_transaction_too(fleet: RunningRouter) -> None:
    _, body = await fleet.post("/v1/unmerge_lora_weights")
    assert [row["worker_url"] for row in body["results"]] == list(await fleet.statuses())


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("route", "query", "body", "code", "field"),
    [
        (DISK, "", b"", "invalid_field", "model_path"),
        (DISK, "", b"{}", "invalid_field", "model_path"),
        (DISK, "", b'{"model_path":1}', "invalid_field", "model_path"),
        (DISK, "", b'{"model_path":""}', "invalid_field", "model_path"),
        (DISK, "", b"{", "invalid_json", None),
        (DISK, "", b"[]", "invalid_json", None),
        (DISK, "", b'{"model_path":"x","weight_version":true}', "invalid_field", "weight_version"),
        (DISK, "", b'{"model_path":"x","weight_version":""}', "invalid_field", "weight_version"),
        (DISK, "", b'{"model_path":"x","weight_version":"a\\nb"}', "invalid_field", "weight_version"),
        (DISK, "?weight_version=a", b'{"model_path":"x","weight_version":"b"}', "invalid_field", "weight_version"),
        (DISK, "?weight_version=" + "v" * 257, b'{"model_path":"x"}', "invalid_field", "weight_version"),
        (DISK, "?mode=now", b'{"model_path":"x"}', "invalid_field", "mode"),
        (DISK, "?max_unavailable=1", b'{"model_path":"x"}', "invalid_field", "max_unavailable"),
        (DISK, "?mode=rolling&admit=old", b'{"model_path":"x"}', "invalid_field", "admit"),
        (DISK, "?refit=begin", b'{"model_path":"x"}', "invalid_field", "refit"),
        (DISK, "?timeout_s=-1", b'{"model_path":"x"}', "invalid_field", "timeout_s"),
        ("/v1/set_lora", "", b"{}", "invalid_field", "lora_nickname"),
        (TENSOR, "?mode=now", b"x", "invalid_field", "mode"),
        (TENSOR, "?refit=begin&mode=rolling", b"x", "invalid_field", "mode"),
        (TENSOR, "?refit=end", b"x", "invalid_field", "refit"),
        (TENSOR, "?refit=part&mode=drain", b"x", "invalid_field", "mode"),
    ],
)
async def test_a_wrong_refit_is_refused_before_any_worker_is_fenced(
    shared_router: RunningRouter,
    image_worker: SimInThread,
    route: str,
    query: str,
    body: bytes,
    code: str,
    field: str | None,
) -> None:
    status, error = await shared_router.ask("POST", route + query, content=body)
    assert (status, error["code"], error.get("field")) == (400, code, field)
    worker = await shared_router.worker(image_worker.url)
    assert (worker["status"], worker["weight_version"]) == ("active", "0")


@pytest.mark.parametrize("mode", ["drain", "immediate", "rolling", "rolling&max_unavailable=2", "rolling&admit=new"])
async def test_every_mode_brings_the_fleet_to_the_new_weights(fleet: RunningRouter, mode: str) -> None:
    _, body = await fleet.post(f"{DISK}?mode={mode}", {"model_path": "sim/a", "weight_version": "a"})
    assert (body["success"], body["weight_version"]) == (True, "a")
    assert (await versions(fleet), len(set(await checksums(fleet)))) == (["a", "a"], 1)
    assert set((await fleet.statuses()).values()) == {"active"}


async def test_an_immediate_refit_queues_behind_the_workers_own_work(
    slow_router: RunningRouter, slow_worker: SimInThread
) -> None:
    work = asyncio.ensure_future(slow_router.client.post("/v1/images/generations", json=IMAGE))
    await slow_router.until_in_flight(slow_worker.url, 1)
    refit = asyncio.ensure_future(slow_router.post(DISK + "?mode=immediate", {"model_path": "sim/i"}))
    await slow_router.until_status(slow_worker.url, "updating")
    assert (await slow_router.worker(slow_worker.url))["active_requests"] == 1
    assert (await refit)[1]["success"] is True
    assert (await work).status_code == 200


async def test_work_goes_on_during_a_rolling_refit() -> None:
    with SimInThread(SimSettings(refit_seconds=0.3)) as first, SimInThread(SimSettings(refit_seconds=0.3)) as second:
        async with running(first.url, second.url) as router:
            refit = asyncio.ensure_future(router.post(DISK + "?mode=rolling", {"model_path": "sim/a"}))
            await eventually(router.statuses, lambda statuses: "updating" in statuses.values())
            response = await router.client.post("/v1/images/generations", json=IMAGE)
            assert (response.status_code, refit.done()) == (200, False)
            assert response.headers["x-sglang-router-weight-version"] in {"0", "1"}
            assert (await refit)[1]["success"] is True


# Several requests.


def tensors(value: float, *names: str) -> dict[str, object]:
    """Give the body that sets these tensors of the simulated transformer."""
    arrays = {name: np.full(SHAPES[name], value, np.float32) for name in names}
    return {"serialized_named_tensors": [base64.b64encode(to_safetensors(arrays)).decode()]}


SHAPES = shapes_of("transformer")
NAMES = sorted(SHAPES)


async def test_weights_in_several_requests_are_one_refit(fleet: RunningRouter) -> None:
    before = await checksums(fleet)
    status, begun = await fleet.post(f"{TENSOR}?refit=begin&weight_version=t1", tensors(1.0, NAMES[0]))
    assert (status, begun["success"], len(begun["results"])) == (200, True, 2)
    waiting = asyncio.ensure_future(fleet.client.post("/v1/images/generations", json=IMAGE))
    status, part = await fleet.post(f"{TENSOR}?refit=part", tensors(2.0, *NAMES[1:]))
    assert (status, part["success"], part["refit"]) == (200, True, begun["refit"])
    assert set((await fleet.statuses()).values()) == {"updating"}
    status, committed = await fleet.ask("POST", f"{TENSOR}?refit=commit")
    assert (status, committed["success"], committed["weight_version"]) == (200, True, "t1")
    assert (await waiting).headers["x-sglang-router-weight-version"] == "t1"
    after = await checksums(fleet)
    assert (len(set(before)), len(set(after)), before[0] != after[0]) == (1, 1, True)
    assert await versions(fleet) == ["t1", "t1"]
    _, shown = await fleet.get(f"/refits/{begun['refit']}")
    assert (shown["refit"]["status"], shown["refit"]["parts"]) == ("succeeded", 2)


async def test_parts_may_go_to_some_of_the_workers_each(
    fleet: RunningRouter, pair: tuple[SimInThread, SimInThread]
) -> None:
    await fleet.ask("POST", f"{TENSOR}?refit=begin")
    for worker in pair:
        _, part = await fleet.post(f"{TENSOR}?refit=part&selector={worker.url}", tensors(1.0, NAMES[0]))
        assert [row["worker_url"] for row in part["results"]] == [worker.url]
    assert (await fleet.ask("POST", f"{TENSOR}?refit=commit"))[1]["success"] is True
    assert len(set(await checksums(fleet))) == 1


async def test_a_worker_that_dies_between_two_parts_does_not_come_back_with_half_of_them(
    fleet: RunningRouter, pair: tuple[SimInThread, SimInThread]
) -> None:
    await fleet.post(f"{TENSOR}?refit=begin&weight_version=t1", tensors(1.0, NAMES[0]))
    pair[1].restart()
    await fleet.post(f"{TENSOR}?refit=part", tensors(2.0, *NAMES[1:]))
    _, committed = await fleet.ask("POST", f"{TENSOR}?refit=commit")
    assert (committed["success"], committed["weight_version"]) == (False, "t1")
    assert committed["results"][0]["status_code"] == 200
    replies = [await fleet.client.post("/v1/images/generations", json=IMAGE) for _ in range(3)]
    assert {reply.headers["x-sglang-router-worker"] for reply in replies} == {pair[0].url}
    assert (await fleet.worker(pair[1].url))["status"] != "active"


async def test_a_part_at_the_wrong_time_is_a_conflict(fleet: RunningRouter) -> None:
    for step in ("part", "commit"):
        status, error = await fleet.ask("POST", f"{TENSOR}?refit={step}", content=b"x")
        assert (status, error["code"]) == (409, "no_open_refit")
    await fleet.ask("POST", f"{TENSOR}?refit=begin")
    status, error = await fleet.ask("POST", f"{TENSOR}?refit=part")
    assert (status, error["code"], error["field"]) == (400, "invalid_field", "refit")
    assert (await fleet.ask("POST", f"{TENSOR}?refit=commit"))[1]["success"] is False
    assert set((await fleet.statuses()).values()) == {"active"}


async def test_silence_after_a_begin_ends_the_refit(pair: tuple[SimInThread, SimInThread]) -> None:
    async with running(pair[0].url, refit_part_timeout_s=0.05) as router:
        _, begun = await router.ask("POST", f"{TENSOR}?refit=begin")
        _, shown = await eventually(
            lambda: router.get(f"/refits/{begun['refit']}"), lambda got: got[1]["refit"]["ended_at"] is not None
        )
        assert (shown["refit"]["status"], shown["refit"]["reason"].split(" after")[0]) == (
            "failed",
            "nothing came for 0.05 s",
        )
        assert (await router.post("/v1/images/generations", IMAGE))[0] == 200


async def test_a_large_part_is_sent_whole_and_not_kept_in_memory() -> None:
    size, seen = 48 * MIB, list[tuple[str, int]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/update_weights" in head:
            hasher, left = hashlib.sha256(), size
            while left:
                chunk = await reader.read(min(left, MIB))
                hasher.update(chunk)
                left -= len(chunk)
            seen.append((hasher.hexdigest(), size))
        writer.write(reply(200, b'{"success":true,"transformer":"x"}'))

    hasher = hashlib.sha256()

    async def upload() -> AsyncIterator[bytes]:
        for number in range(size // MIB):
            block = bytes([number]) * MIB
            hasher.update(block)
            yield block

    async with serving(handle) as first, serving(handle) as second, running(str(first), str(second)) as router:
        await router.ask("POST", f"{TENSOR}?refit=begin")
        tracemalloc.start()
        try:
            headers = {"content-length": str(size)}
            _, part = await router.ask("POST", f"{TENSOR}?refit=part", content=upload(), headers=headers)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (part["success"], peak < size / 3) == (True, True), f"{peak / MIB:.0f} MiB"
        assert (await router.ask("POST", f"{TENSOR}?refit=commit"))[1]["success"] is True
    assert seen == [(hasher.hexdigest(), size)] * 2


# The log.


async def test_every_refit_is_remembered_the_newest_first(
    fleet: RunningRouter, pair: tuple[SimInThread, SimInThread]
) -> None:
    _, good = await fleet.post(DISK, {"model_path": "sim/a", "weight_version": "a"})
    _, bad = await fleet.post(DISK + "?mode=rolling", {"model_path": "/nonexistent/model"})
    _, listed = await fleet.get("/refits")
    assert [(one["id"], one["status"], one["mode"], one["weight_version"]) for one in listed["refits"]] == [
        (bad["refit"], "failed", "rolling", "1"),
        (good["refit"], "succeeded", "drain", "a"),
    ]
    _, shown = await fleet.get(f"/refits/{good['refit']}")
    assert shown["refit"] == listed["refits"][1]
    assert [(row["worker_url"], row["status"], row["status_code"]) for row in shown["refit"]["workers"]] == [
        (pair[0].url, "updated", 200),
        (pair[1].url, "updated", 200),
    ]
    assert [row["status"] for row in listed["refits"][0]["workers"]] == ["refused", "skipped"]
    assert [one["id"] for one in (await fleet.get("/refits?limit=1"))[1]["refits"]] == [bad["refit"]]


async def test_a_refit_can_be_watched() -> None:
    with SimInThread(SimSettings(refit_seconds=0.4)) as worker:
        async with running(worker.url) as router:
            refit = asyncio.ensure_future(router.post(DISK, {"model_path": "sim/a", "weight_version": "a"}))
            _, listed = await eventually(
                lambda: router.get("/refits"),
                lambda got: [row["status"] for one in got[1]["refits"] for row in one["workers"]] == ["updating"],
            )
            assert (listed["refits"][0]["status"], listed["refits"][0]["ended_at"]) == ("open", None)
            assert (await refit)[1]["refit"] == listed["refits"][0]["id"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/refits/refit-0", 404, "unknown_refit"),
        ("/refits?limit=0", 400, "invalid_field"),
        ("/refits?limit=257", 400, "invalid_field"),
        ("/refits?before=x", 400, "invalid_field"),
        ("/refits?limit=1&limit=2", 400, "invalid_field"),
    ],
)
async def test_a_wrong_question_about_refits_is_refused(
    shared_empty: RunningRouter, target: str, status: int, code: str
) -> None:
    got, error = await shared_empty.get(target)
    assert (got, error["code"]) == (status, code)


@pytest.mark.asyncio(loop_scope="module")
async def test_without_workers_a_refit_is_503(shared_empty: RunningRouter) -> None:
    status, error = await shared_empty.post(DISK, {"model_path": "x"})
    assert (status, error["code"]) == (503, "no_eligible_worker")
