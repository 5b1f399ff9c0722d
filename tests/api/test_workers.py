import asyncio
import socket
from urllib.parse import quote

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.raw_worker import answering, reply, serving
from support.running import RunningRouter, running

EMPTY = {"requests": 0, "bytes": 0, "oldest_seconds": None, "tenants": []}
IMAGE = {"prompt": "a lighthouse", "size": "64x64", "num_inference_steps": 2, "seed": 1}


def once(text: str) -> str:
    return quote(text, safe="")


async def test_a_registered_worker_can_be_used_at_once(empty: RunningRouter, image_worker: SimInThread) -> None:
    status, body = await empty.post("/workers", {"url": image_worker.url + "/"})
    assert status == 200
    assert body == {
        "status": "success",
        "worker": {
            "worker_id": image_worker.url,
            "display_id": image_worker.url.removeprefix("http://"),
            "id": image_worker.url,
            "url": image_worker.url,
            "active_requests": 0,
            "is_dead": False,
            "is_sleeping": False,
            "consecutive_failures": 0,
            "video_support": False,
            "status": "active",
            "reason": "",
            "state": "active",
            "health": "healthy",
            "weight_version": "0",
            "jobs": 0,
            "queued": 0,
            "task_types": ["T2I"],
            "model": "sim/stable-diffusion-3-medium",
            "max_concurrency": None,
            "ramp": None,
            "speed": None,
            "speed_confidence": 0.0,
            "labels": {},
            "launcher": None,
        },
    }
    status, _ = await empty.post("/v1/images/generations", {"prompt": "now", "size": "64x64"})
    assert status == 200


@pytest.mark.parametrize("target", ["/workers?url={url}", "/workers?worker_url={url}"])
async def test_a_worker_may_be_named_in_the_query(empty: RunningRouter, image_worker: SimInThread, target: str) -> None:
    response = await empty.client.post(target.format(url=once(image_worker.url)))
    assert (response.status_code, response.json()["worker"]["url"]) == (200, image_worker.url)


async def test_a_worker_is_registered_with_its_labels_and_its_cap(
    empty: RunningRouter, image_worker: SimInThread
) -> None:
    given = {"labels": {"zone": "b", "group": "a"}, "max_concurrency": 3}
    _, body = await empty.post("/workers", {"url": image_worker.url, **given})
    assert {key: body["worker"][key] for key in given} == given
    response = await empty.client.post(f"/workers?url={once(image_worker.url)}", json={"labels": {"zone": "c"}})
    assert {key: response.json()["worker"][key] for key in given} == {"labels": {"zone": "c"}, "max_concurrency": 3}


async def test_several_workers_are_registered_in_one_call_and_can_be_used_at_once(
    empty: RunningRouter, image_worker: SimInThread, video_worker: SimInThread
) -> None:
    urls = [video_worker.url, image_worker.url]
    status, body = await empty.post(
        "/workers", {"urls": [*urls, video_worker.url + "/"], "labels": {"zone": "b"}, "max_concurrency": 1}
    )
    assert (status, body["status"], list(body)) == (200, "success", ["status", "workers"])
    assert [(w["url"], w["status"], w["labels"], w["max_concurrency"]) for w in body["workers"]] == [
        (url, "active", {"zone": "b"}, 1) for url in urls
    ]
    assert await empty.get("/workers") == (200, {"workers": body["workers"], "queue": EMPTY})


async def test_several_workers_may_each_have_their_own_labels(
    empty: RunningRouter, image_worker: SimInThread, video_worker: SimInThread
) -> None:
    entries = [
        {"url": image_worker.url, "labels": {"kind": "image"}},
        {"url": video_worker.url, "max_concurrency": 0},
    ]
    _, body = await empty.post("/workers", {"workers": entries})
    assert [(w["url"], w["labels"], w["max_concurrency"]) for w in body["workers"]] == [
        (image_worker.url, {"kind": "image"}, None),
        (video_worker.url, {}, 0),
    ]


async def test_one_that_hangs_does_not_hold_the_others_up(empty: RunningRouter, image_worker: SimInThread) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entered.set()
        await leave.wait()

    async with serving(hang) as url:
        registered = asyncio.ensure_future(empty.post("/workers", {"urls": [str(url), image_worker.url]}))
        await entered.wait()
        await empty.until_status(image_worker.url, "active")
        assert (await empty.post("/v1/images/generations", IMAGE))[0] == 200
        assert not registered.done()
        leave.set()
        status, body = await registered
    assert (status, [worker["url"] for worker in body["workers"]]) == (200, [str(url), image_worker.url])


async def test_registering_twice_is_no_error_and_changes_nothing(
    router: RunningRouter, image_worker: SimInThread
) -> None:
    before = await router.get("/workers")
    assert (await router.post("/workers", {"url": image_worker.url}))[0] == 200
    assert await router.get("/workers") == before


async def test_an_unreachable_worker_is_registered_and_joins_when_it_answers(empty: RunningRouter) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        status, body = await empty.post("/workers", {"url": url})
    assert (status, body["worker"]["status"], body["worker"]["is_dead"]) == (200, "quarantined", True)
    async with serving(answering(reply(200, b'{"status":"ok"}')), int(url.rpartition(":")[2])):
        await empty.until_status(url, "active")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("times", [0, 1, 2])
async def test_a_worker_is_found_however_often_its_url_is_encoded(
    shared_router: RunningRouter, image_worker: SimInThread, times: int
) -> None:
    name = image_worker.url
    for _ in range(times):
        name = once(name)
    status, body = await shared_router.get(f"/workers/{name}")
    assert (status, body["worker"]["url"]) == (200, image_worker.url)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_workers_url_may_be_spelt_otherwise(shared_router: RunningRouter, image_worker: SimInThread) -> None:
    name = once(image_worker.url.upper().replace("HTTP", "HTTP") + "/")
    assert (await shared_router.get(f"/workers/{name}"))[0] == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "name", ["nobody", "http%3A%2F%2F127.0.0.1%3A1", "%ff%fe", "%25252525", "http://127.0.0.1:1/x"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_an_unknown_worker_is_404(shared_empty: RunningRouter, method: str, name: str) -> None:
    status, body = await shared_empty.ask(
        method, f"/workers/{name}", json={"is_dead": True} if method == "PUT" else None
    )
    assert (status, body["code"]) == (404, "unknown_worker")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", "invalid_field", "url"),
        (b"{}", "invalid_field", "url"),
        (b"[]", "invalid_json", None),
        (b'"http://127.0.0.1:1"', "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"\xff", "invalid_json", None),
        (b"[" * 50_000, "invalid_json", None),
        (b'{"url":"http://127.0.0.1:1","url":"http://127.0.0.1:2"}', "invalid_json", None),
        (b'{"url":1}', "invalid_field", "url"),
        (b'{"url":null}', "invalid_field", "url"),
        (b'{"url":["http://127.0.0.1:1"]}', "invalid_field", "url"),
        (b'{"url":"http://127.0.0.1:1","labels":{"a=b":"c"}}', "invalid_field", "labels.a=b.[key]"),
        (b'{"url":"http://127.0.0.1:1","labels":null}', "invalid_field", "labels"),
        (b'{"url":"http://127.0.0.1:1","max_concurrency":-1}', "invalid_field", "max_concurrency"),
        (b'{"url":"http://127.0.0.1:1","urls":["http://127.0.0.1:2"]}', "invalid_field", "urls"),
        (b'{"url":"http://127.0.0.1:1","workers":[]}', "invalid_field", "workers"),
        (b'{"urls":["http://127.0.0.1:1"],"workers":[{"url":"http://127.0.0.1:2"}]}', "invalid_field", "workers"),
        (b'{"urls":[]}', "invalid_field", "urls"),
        (b'{"urls":"http://127.0.0.1:1"}', "invalid_field", "urls"),
        (b'{"urls":["http://127.0.0.1:1",7]}', "invalid_field", "urls.1"),
        (b'{"urls":["http://127.0.0.1:1","http://127.0.0.1:2/x"]}', "invalid_worker_url", None),
        (b'{"urls":["http://127.0.0.1:1","http://169.254.169.254"]}', "invalid_worker_url", None),
        (b'{"workers":[{"url":"http://127.0.0.1:1"},{"labels":{}}]}', "invalid_field", "workers.1.url"),
        (
            b'{"workers":[{"url":"http://127.0.0.1:1","labels":{"a":"1"}},{"url":"http://127.0.0.1:1"}]}',
            "invalid_field",
            "workers",
        ),
        (b'{"url":"http://127.0.0.1:1","worker_url":"http://127.0.0.1:2"}', "invalid_field", "body"),
        (b'{"url":""}', "invalid_worker_url", None),
        (b'{"url":"127.0.0.1:1"}', "invalid_worker_url", None),
        (b'{"url":"ftp://127.0.0.1:1"}', "invalid_worker_url", None),
        (b'{"url":"http://127.0.0.1:1/path"}', "invalid_worker_url", None),
        (b'{"url":"http://user:secret@127.0.0.1:1"}', "invalid_worker_url", None),
        (b'{"url":"http://169.254.169.254"}', "invalid_worker_url", None),
        (b'{"url":"http://0x7f.1:1"}', "invalid_worker_url", None),
        (b'{"url":"http://[fe80::1]:1"}', "invalid_worker_url", None),
        (b'{"url":"http://metadata.google.internal"}', "invalid_worker_url", None),
    ],
)
async def test_a_wrong_registration_is_refused_and_changes_nothing(
    shared_empty: RunningRouter, body: bytes, code: str, field: str | None
) -> None:
    status, error = await shared_empty.ask("POST", "/workers", content=body)
    assert (status, error["code"], error.get("field")) == (400, code, field)
    assert error["error"]
    assert "secret" not in str(error)
    assert await shared_empty.get("/workers") == (200, {"workers": [], "queue": EMPTY})


@pytest.mark.asyncio(loop_scope="module")
async def test_a_long_body_is_refused(shared_empty: RunningRouter) -> None:
    for method in ("POST", "PUT"):
        status, error = await shared_empty.ask(method, "/workers", content=b" " * (2**20 + 1))
        assert (status, error["code"]) == (413, "body_too_large")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("query", ["uri=http://127.0.0.1:1", "url=http://127.0.0.1:1&worker_url=http://127.0.0.1:2"])
async def test_a_wrong_query_is_refused(shared_empty: RunningRouter, query: str) -> None:
    status, error = await shared_empty.ask("POST", f"/workers?{query}")
    assert (status, error["code"]) == (400, "invalid_field")
    assert await shared_empty.get("/workers") == (200, {"workers": [], "queue": EMPTY})


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("body", "field"), [({"url": "http://127.0.0.1:2"}, "url"), ({"urls": ["http://127.0.0.1:1"]}, "urls")]
)
async def test_query_and_body_that_name_different_workers_are_refused(
    shared_empty: RunningRouter, body: object, field: str
) -> None:
    status, error = await shared_empty.post("/workers?url=http://127.0.0.1:1", body)
    assert (status, error["field"]) == (400, field)
    assert await shared_empty.get("/workers") == (200, {"workers": [], "queue": EMPTY})


async def test_a_host_that_is_not_allowed_is_refused() -> None:
    async with running(allow_worker="10.0.0.0/8,gpu-1") as router:
        status, error = await router.post("/workers", {"url": "http://127.0.0.1:1"})
        assert (status, error["code"]) == (400, "invalid_worker_url")
        assert error["error"].endswith("is not on the list of allowed workers")


class TestAWholeSet:
    """`PUT /workers`."""

    async def test_takes_the_place_of_the_one_before(
        self, router: RunningRouter, image_worker: SimInThread, video_worker: SimInThread
    ) -> None:
        status, body = await router.ask("PUT", "/workers", json={"urls": [video_worker.url]})
        shown = body.pop("workers")
        assert (status, body) == (
            200,
            {
                "status": "success",
                "draining": [],
                "removed": [image_worker.url],
                "added": [video_worker.url],
                "kept": [],
            },
        )
        assert [(worker["url"], worker["status"]) for worker in shown] == [(video_worker.url, "active")]
        assert await router.statuses() == {video_worker.url: "active"}

    async def test_leaves_what_stays_at_its_work(
        self, slow_router: RunningRouter, slow_worker: SimInThread, image_worker: SimInThread
    ) -> None:
        work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
        await slow_router.until_in_flight(slow_worker.url, 1)
        before = await slow_router.worker(slow_worker.url)
        status, body = await slow_router.ask(
            "PUT", "/workers", json={"urls": [image_worker.url, slow_worker.url], "labels": {"zone": "new"}}
        )
        assert (status, body["added"], body["kept"], body["removed"]) == (
            200,
            [image_worker.url],
            [slow_worker.url],
            [],
        )
        assert await slow_router.worker(slow_worker.url) == {**before, "labels": {"zone": "new"}}
        assert (await work)[0] == 200

    async def test_lets_a_busy_worker_end_its_work(
        self, slow_router: RunningRouter, slow_worker: SimInThread, image_worker: SimInThread
    ) -> None:
        work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
        await slow_router.until_in_flight(slow_worker.url, 1)
        status, body = await slow_router.ask("PUT", "/workers", json={"workers": [{"url": image_worker.url}]})
        assert (status, body["status"], body["draining"], body["removed"]) == (202, "draining", [slow_worker.url], [])
        assert await slow_router.statuses() == {slow_worker.url: "draining", image_worker.url: "active"}
        assert (await work)[0] == 200
        assert await slow_router.statuses() == {image_worker.url: "active"}

    async def test_lets_it_go_now_by_force(
        self, slow_router: RunningRouter, slow_worker: SimInThread, image_worker: SimInThread
    ) -> None:
        work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
        await slow_router.until_in_flight(slow_worker.url, 1)
        status, body = await slow_router.ask("PUT", "/workers?force=true", json={"urls": [image_worker.url]})
        assert (status, body["status"], body["removed"]) == (200, "success", [slow_worker.url])
        assert (await work)[0] == 200
        assert await slow_router.statuses() == {image_worker.url: "active"}

    async def test_may_be_empty(self, router: RunningRouter, image_worker: SimInThread) -> None:
        status, body = await router.ask("PUT", "/workers", json={"urls": []})
        assert (status, body["workers"], body["removed"]) == (200, [], [image_worker.url])
        assert await router.get("/workers") == (200, {"workers": [], "queue": EMPTY})

    async def test_keeps_a_fleet_asleep(
        self, router: RunningRouter, image_worker: SimInThread, video_worker: SimInThread
    ) -> None:
        await router.post("/release_memory_occupation")
        try:
            await router.ask("PUT", "/workers", json={"urls": [video_worker.url]})
            await router.until_status(video_worker.url, "sleeping")
        finally:
            # The other tests' worker was removed in its sleep: the router must hear that it sleeps, to wake it.
            await router.post("/workers", {"url": image_worker.url})
            await router.post("/release_memory_occupation")
            await router.post("/resume_memory_occupation")

    @pytest.mark.asyncio(loop_scope="module")
    @pytest.mark.parametrize(
        ("target", "body", "code"),
        [
            ("/workers", b"", "invalid_field"),
            ("/workers", b"{}", "invalid_field"),
            ("/workers", b'{"url":"http://127.0.0.1:1"}', "invalid_field"),
            ("/workers", b'{"urls":["http://127.0.0.1:1"],"workers":[]}', "invalid_field"),
            ("/workers", b'{"workers":[],"labels":{"a":"b"}}', "invalid_field"),
            ("/workers", b'{"urls":["http://127.0.0.1:1","gpu-1"]}', "invalid_worker_url"),
            ("/workers", b"[]", "invalid_json"),
            ("/workers?force=perhaps", b'{"urls":[]}', "invalid_field"),
            ("/workers?selector=all", b'{"urls":[]}', "invalid_field"),
        ],
    )
    async def test_that_is_wrong_changes_nothing(
        self, shared_router: RunningRouter, image_worker: SimInThread, target: str, body: bytes, code: str
    ) -> None:
        status, error = await shared_router.ask("PUT", target, content=body)
        assert (status, error["code"]) == (400, code)
        assert await shared_router.statuses() == {image_worker.url: "active"}


class TestAGroup:
    """Workers that `?selector=` names."""

    async def test_is_listed(self, image_worker: SimInThread, video_worker: SimInThread) -> None:
        a, b = image_worker.url, video_worker.url
        async with running(a, b) as router:
            await router.ask("PUT", f"/workers/{once(b)}", json={"labels": {"zone": "b"}})

            async def listed(selector: str) -> list[str]:
                _, body = await router.get(f"/workers?selector={selector}")
                return [worker["url"] for worker in body["workers"]]

            assert [await listed(s) for s in ("zone=b", f"{b},{a}", "all", "zone=c")] == [[b], [a, b], [a, b], []]

    async def test_is_removed_each_as_its_work_allows(
        self, slow_router: RunningRouter, slow_worker: SimInThread, image_worker: SimInThread, video_worker: SimInThread
    ) -> None:
        a, b, busy = image_worker.url, video_worker.url, slow_worker.url
        work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
        await slow_router.until_in_flight(busy, 1)
        await slow_router.post("/workers", {"urls": [a, b]})
        await slow_router.post("/workers", {"urls": [busy, a], "labels": {"zone": "old"}})
        assert await slow_router.ask("DELETE", "/workers?selector=zone=old") == (
            202,
            {"status": "draining", "draining": [busy], "removed": [a]},
        )
        assert (await work)[0] == 200
        assert await slow_router.statuses() == {b: "active"}
        # What is gone may be removed again: the caller may have missed the first answer.
        assert await slow_router.ask("DELETE", "/workers?selector=zone=old") == (
            200,
            {"status": "success", "draining": [], "removed": []},
        )

    async def test_is_removed_now_by_force(self, slow_router: RunningRouter, slow_worker: SimInThread) -> None:
        work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
        await slow_router.until_in_flight(slow_worker.url, 1)
        assert await slow_router.ask("DELETE", "/workers?selector=all&force=true") == (
            200,
            {"status": "success", "draining": [], "removed": [slow_worker.url]},
        )
        assert (await work)[0] in {502, 503}

    @pytest.mark.asyncio(loop_scope="module")
    @pytest.mark.parametrize(
        ("method", "query", "status", "code"),
        [
            ("DELETE", "", 400, "invalid_field"),
            ("DELETE", "selector=", 400, "invalid_field"),
            ("DELETE", "selector==red", 400, "invalid_field"),
            ("DELETE", "selector=gpu-1", 400, "invalid_worker_url"),
            ("DELETE", "selector=http://127.0.0.1:1", 404, "unknown_worker"),
            ("DELETE", "selector=all&force=perhaps", 400, "invalid_field"),
            ("DELETE", "selector=all&selector=all", 400, "invalid_field"),
            ("GET", "selector=", 400, "invalid_field"),
            ("GET", "selector=http://127.0.0.1:1", 404, "unknown_worker"),
        ],
    )
    async def test_that_is_named_wrongly_is_left_alone(
        self, shared_router: RunningRouter, image_worker: SimInThread, method: str, query: str, status: int, code: str
    ) -> None:
        answer, error = await shared_router.ask(method, f"/workers?{query}")
        assert (answer, error["code"]) == (status, code)
        assert await shared_router.statuses() == {image_worker.url: "active"}


async def test_an_idle_worker_is_removed_at_once(router: RunningRouter, image_worker: SimInThread) -> None:
    status, body = await router.ask("DELETE", f"/workers/{once(image_worker.url)}")
    assert (status, body) == (200, {"status": "success", "worker_id": image_worker.url})
    assert await router.get("/workers") == (200, {"workers": [], "queue": EMPTY})


async def test_a_busy_worker_drains_and_is_removed_when_its_work_has_ended(
    slow_router: RunningRouter, slow_worker: SimInThread
) -> None:
    work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
    await slow_router.until_in_flight(slow_worker.url, 1)
    removed = await slow_router.ask("DELETE", f"/workers/{once(slow_worker.url)}")
    assert removed == (202, {"status": "draining", "worker_id": slow_worker.url})
    assert (await slow_router.worker(slow_worker.url))["status"] == "draining"
    assert (await work)[0] == 200
    assert await slow_router.get("/workers") == (200, {"workers": [], "queue": EMPTY})


async def test_registering_a_worker_that_drains_calls_its_removal_off(
    slow_router: RunningRouter, slow_worker: SimInThread
) -> None:
    work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
    await slow_router.until_in_flight(slow_worker.url, 1)
    await slow_router.ask("DELETE", f"/workers/{once(slow_worker.url)}")
    assert (await slow_router.post("/workers", {"url": slow_worker.url}))[1]["worker"]["status"] == "active"
    assert (await work)[0] == 200
    assert await slow_router.statuses() == {slow_worker.url: "active"}


async def test_force_removes_a_busy_worker_now(slow_router: RunningRouter, slow_worker: SimInThread) -> None:
    work = asyncio.ensure_future(slow_router.post("/v1/images/generations", IMAGE))
    await slow_router.until_in_flight(slow_worker.url, 1)
    assert (await slow_router.ask("DELETE", f"/workers/{once(slow_worker.url)}?force=true"))[0] == 200
    assert await slow_router.get("/workers") == (200, {"workers": [], "queue": EMPTY})
    assert (await work)[0] in {502, 503}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("query", ["force=maybe", "forse=true", "force=true&force=false"])
async def test_a_wrong_removal_changes_nothing(
    shared_router: RunningRouter, image_worker: SimInThread, query: str
) -> None:
    status, error = await shared_router.ask("DELETE", f"/workers/{once(image_worker.url)}?{query}")
    assert (status, error["code"]) == (400, "invalid_field")
    assert await shared_router.statuses() == {image_worker.url: "active"}


async def test_an_operators_quarantine_stays_until_it_is_lifted(
    router: RunningRouter, image_worker: SimInThread
) -> None:
    path = f"/workers/{once(image_worker.url)}"
    status, body = await router.ask("PUT", path, json={"is_dead": True})
    assert (status, body["worker"]["status"], body["worker"]["is_dead"]) == (200, "quarantined", True)
    assert (await router.post("/v1/images/generations", {"prompt": "x", "size": "64x64"}))[0] == 503
    await router.ask("PUT", path, json={"is_dead": False})
    await router.until_status(image_worker.url, "active")


async def test_a_drained_worker_gets_no_work_until_it_is_active_again(
    router: RunningRouter, image_worker: SimInThread
) -> None:
    path = f"/workers/{once(image_worker.url)}"
    for _ in range(2):
        status, body = await router.ask("PUT", path, json={"state": "drained"})
        assert (status, body["worker"]["status"]) == (200, "draining")
    assert (await router.post("/v1/images/generations", {"prompt": "x", "size": "64x64"}))[0] == 503
    status, body = await router.ask("PUT", path, json={"state": "active"})
    assert (status, body["worker"]["status"]) == (200, "active")


async def test_a_sleeping_worker_is_not_made_active(router: RunningRouter, image_worker: SimInThread) -> None:
    await router.post("/release_memory_occupation")
    try:
        status, error = await router.ask(
            "PUT", f"/workers/{once(image_worker.url)}", json={"state": "active", "max_concurrency": 9}
        )
        assert (status, error["code"]) == (409, "conflict")
        worker = await router.worker(image_worker.url)
        assert (worker["status"], worker["max_concurrency"]) == ("sleeping", None)
    finally:
        await router.post("/resume_memory_occupation")


async def test_cap_and_labels_are_set_and_shown(router: RunningRouter, image_worker: SimInThread) -> None:
    path = f"/workers/{once(image_worker.url)}"
    change = {"max_concurrency": 7, "labels": {"zone": "b", "group": "a"}}
    _, body = await router.ask("PUT", path, json=change)
    assert {key: body["worker"][key] for key in change} == change
    _, body = await router.ask("PUT", path, json={"max_concurrency": None, "labels": {}})
    assert {key: body["worker"][key] for key in change} == {"max_concurrency": None, "labels": {}}


async def test_a_worker_is_asked_again_what_it_makes(empty: RunningRouter) -> None:
    tasks = ["T2I"]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        models = b'{"data":[{"id":"m","task_type":"%s"}]}' % tasks[0].encode()
        writer.write(reply(200, models if b"/v1/models" in head else b"{}"))

    async with serving(handle) as url:
        await empty.post("/workers", {"url": str(url)})
        tasks[0] = "T2V"
        _, body = await empty.ask("PUT", f"/workers/{once(str(url))}", json={"refresh_video_support": True})
    assert (body["worker"]["task_types"], body["worker"]["video_support"]) == (["T2V"], True)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("body", [b"", b"{}", b'{"is_dead":"yes"}', b'{"state":"gone"}', b'{"paint":"red"}', b"[]"])
async def test_a_wrong_change_is_refused_and_changes_nothing(
    shared_router: RunningRouter, image_worker: SimInThread, body: bytes
) -> None:
    before = await shared_router.get("/workers")
    status, error = await shared_router.ask("PUT", f"/workers/{once(image_worker.url)}", content=body)
    assert status == 400
    assert error["code"] in {"invalid_field", "invalid_json"}
    assert await shared_router.get("/workers") == before


async def test_workers_are_listed_in_the_order_of_registration(empty: RunningRouter) -> None:
    async with serving(answering(reply(200, b"{}"))) as first, serving(answering(reply(200, b"{}"))) as second:
        for url in sorted([str(first), str(second)], reverse=True):
            await empty.post("/workers", {"url": url})
        assert list(await empty.statuses()) == sorted([str(first), str(second)], reverse=True)
