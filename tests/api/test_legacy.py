from urllib.parse import quote

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter


@pytest.mark.parametrize("field", ["url", "worker_url"])
@pytest.mark.parametrize("where", ["query", "body"])
async def test_workers_come_and_go_by_their_older_names(
    empty: RunningRouter, image_worker: SimInThread, field: str, where: str
) -> None:
    url = image_worker.url

    async def ask(path: str) -> tuple[int, object]:
        if where == "query":
            return await empty.ask("POST", f"{path}?{field}={quote(url)}")
        return await empty.post(path, {field: url})

    assert await ask("/add_worker") == (200, {"status": "success", "worker_urls": {url: 0}})
    assert await empty.get("/list_workers") == (200, {"urls": [url]})
    assert await empty.get("/health_workers") == await empty.get("/workers")
    assert await ask("/remove_worker") == (200, {"status": "success"})
    assert await empty.get("/list_workers") == (200, {"urls": []})


async def test_a_worker_that_is_not_there_is_gone(empty: RunningRouter) -> None:
    assert await empty.ask("POST", "/remove_worker?url=http://127.0.0.1:1") == (200, {"status": "success"})


async def test_a_busy_worker_drains(slow_router: RunningRouter, slow_worker: SimInThread) -> None:
    slow_router.client.timeout = 30
    import asyncio

    work = asyncio.ensure_future(slow_router.post("/v1/images/generations", {"prompt": "x", "size": "64x64"}))
    await slow_router.until_in_flight(slow_worker.url, 1)
    assert await slow_router.post("/remove_worker", {"url": slow_worker.url}) == (202, {"status": "draining"})
    assert (await work)[0] == 200
    assert await slow_router.get("/list_workers") == (200, {"urls": []})


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/add_worker", {}, 400, "invalid_field"),
        ("/add_worker", {"url": "gpu-1"}, 400, "invalid_worker_url"),
        ("/add_worker?urls=x", {}, 400, "invalid_field"),
        ("/remove_worker", {}, 400, "invalid_field"),
        ("/remove_worker", {"url": "gpu-1"}, 400, "invalid_worker_url"),
        ("/remove_worker", {"url": "http://127.0.0.1:1", "force": True}, 400, "invalid_field"),
        ("/remove_worker?force=perhaps", {"url": "http://127.0.0.1:1"}, 400, "invalid_field"),
    ],
)
async def test_wrong_calls_are_refused(
    shared_router: RunningRouter, image_worker: SimInThread, path: str, body: object, status: int, code: str
) -> None:
    answer, error = await shared_router.post(path, body)
    assert (answer, error["code"]) == (status, code)
    assert await shared_router.get("/list_workers") == (200, {"urls": [image_worker.url]})
