import asyncio
import re
from contextlib import AsyncExitStack
from urllib.parse import quote

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.raw_worker import reply, serving
from support.running import RunningRouter, eventually, running


async def test_a_router_without_workers_is_unhealthy_but_alive(empty: RunningRouter) -> None:
    assert await empty.get("/health") == (
        503,
        {"status": "unhealthy", "healthy_workers": 0, "total_workers": 0, "dead_workers": 0, "sleeping_workers": 0},
    )
    assert await empty.get("/liveness") == (200, {"status": "alive"})
    status, error = await empty.get("/readiness")
    assert (status, error["code"], error["by_status"]) == (503, "no_routable_worker", {})


async def test_quarantined_and_sleeping_workers_are_counted_apart(
    router: RunningRouter, image_worker: SimInThread, video_worker: SimInThread
) -> None:
    await router.post("/workers", {"url": video_worker.url})
    await router.post(f"/release_memory_occupation?selector={video_worker.url}")
    try:
        assert await router.get("/health") == (
            200,
            {"status": "healthy", "healthy_workers": 1, "total_workers": 2, "dead_workers": 0, "sleeping_workers": 1},
        )
        await router.ask("PUT", f"/workers/{quote(image_worker.url, safe='')}", json={"is_dead": True})
        assert await router.get("/health") == (
            503,
            {"status": "unhealthy", "healthy_workers": 0, "total_workers": 2, "dead_workers": 1, "sleeping_workers": 1},
        )
    finally:
        await router.post(f"/resume_memory_occupation?selector={video_worker.url}")


async def test_a_draining_worker_counts_as_healthy(router: RunningRouter, image_worker: SimInThread) -> None:
    await router.ask("PUT", f"/workers/{quote(image_worker.url, safe='')}", json={"state": "drained"})
    status, health = await router.get("/health")
    assert (status, health["healthy_workers"]) == (200, 1)
    assert (await router.get("/readiness"))[0] == 503


async def test_health_answers_at_once_however_many_workers_hang() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async with running(probe_timeout_s=5) as router, AsyncExitStack() as stack:
        urls = [str(await stack.enter_async_context(serving(hang))) for _ in range(30)]
        asked = [asyncio.ensure_future(router.post("/workers", {"url": url})) for url in urls]

        async def registered() -> int:
            return int((await router.get("/health"))[1]["total_workers"])

        await eventually(registered, lambda count: count == 30)
        async with asyncio.timeout(1.0):
            for _ in range(20):
                status, health = await router.get("/health")
        assert (status, health["healthy_workers"], health["total_workers"]) == (503, 0, 30)
        for task in asked:
            task.cancel()


async def test_a_worker_that_was_heard_once_counts_while_it_is_asked_again() -> None:
    hold = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if hold.is_set():
            await asyncio.Event().wait()
        writer.write(reply(200, b"{}"))

    async with serving(handle) as url, running(str(url), probe_timeout_s=5) as router:
        hold.set()
        await router.ask("PUT", f"/workers/{quote(str(url), safe='')}", json={"is_dead": True})
        await router.ask("PUT", f"/workers/{quote(str(url), safe='')}", json={"is_dead": False})
        assert (await router.worker(str(url)))["health"] == "unknown"
        status, health = await router.get("/health")
        assert (status, health["healthy_workers"]) == (200, 1)


async def test_readiness_says_whether_work_would_be_taken(router: RunningRouter) -> None:
    assert await router.get("/readiness") == (200, {"status": "ready"})
    await router.post("/release_memory_occupation")
    try:
        response = await router.client.get("/readiness")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["by_status"] == {"sleeping": 1}
    finally:
        await router.post("/resume_memory_occupation")
    assert await router.get("/readiness") == (200, {"status": "ready"})


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", ["/health", "/liveness", "/metrics", "/workers", "/openapi.json"])
async def test_head_has_the_fields_of_get_and_no_body(shared_router: RunningRouter, path: str) -> None:
    got, head = await shared_router.client.get(path), await shared_router.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/health", "GET, HEAD"),
        ("PATCH", "/workers", "DELETE, GET, HEAD, POST, PUT"),
        ("POST", "/workers/x", "DELETE, GET, HEAD, PUT"),
        ("GET", "/release_memory_occupation", "POST"),
        ("OPTIONS", "/metrics", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_the_right_ones(
    shared_empty: RunningRouter, method: str, path: str, allow: str
) -> None:
    response = await shared_empty.client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert response.json() == {
        "error": f"method {method} is not allowed here",
        "code": "method_not_allowed",
        "method": method,
    }


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_control_path_is_404_in_the_routers_shape(shared_empty: RunningRouter) -> None:
    assert await shared_empty.get("/leases") == (
        404,
        {"error": "the router has no route /leases", "code": "route_not_found", "path": "/leases"},
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_replies_carry_one_date_and_no_server(shared_empty: RunningRouter) -> None:
    response = await shared_empty.client.get("/liveness")
    assert len(response.headers.get_list("date")) == 1
    assert response.headers.get_list("server") == []


async def test_metrics_count_what_happens(router: RunningRouter, image_worker: SimInThread) -> None:
    await router.post("/v1/images/generations", {"prompt": "x", "size": "64x64"})
    response = await router.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = dict(re.findall(r"^(sgld_router_\S+) (\S+)$", response.text, re.MULTILINE))
    assert samples['sgld_router_workers{status="active"}'] == "1.0"
    assert samples[f'sgld_router_worker_routable{{worker="{image_worker.url}"}}'] == "1.0"
    assert samples['sgld_router_leases_ended_total{result="ok"}'] == "1.0"
    assert samples['sgld_router_requests_total{route="images_generations",status="2xx"}'] == "1.0"
    assert float(samples['sgld_router_probes_total{outcome="succeeded"}']) >= 1
