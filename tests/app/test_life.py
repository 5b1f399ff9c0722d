"""A router from its start to its end, in this process."""

import asyncio

import httpx2
import pytest

from sglang_diffusion_routing.app import build
from sglang_diffusion_routing.errors import InvalidWorkerUrl
from sglang_diffusion_routing.settings import Settings
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.raw_worker import answering, reply, serving
from support.running import eventually, running

IMAGE = {"prompt": "a lighthouse", "size": "64x64", "num_inference_steps": 2, "seed": 1}


async def test_workers_keep_the_order_in_which_they_were_given() -> None:
    handler = answering(reply(200, b"{}"))
    async with serving(handler) as a, serving(handler) as b, serving(handler) as c:
        urls = [str(b), str(c), str(a)]
        async with running(*urls) as router:
            assert list(await router.statuses()) == urls


async def test_what_is_queued_at_the_end_gets_503_and_what_runs_is_finished() -> None:
    with SimInThread(SimSettings(overhead_seconds=0.3)) as worker:
        app = build(Settings(host="127.0.0.1", port=0, worker_urls=(worker.url,), max_concurrency_per_worker=1))
        await app.start()
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{app.port}", trust_env=False) as client:
            asked = [asyncio.ensure_future(client.post("/v1/images/generations", json=IMAGE)) for _ in range(3)]

            async def waiting() -> bool:
                return "sgld_router_queue_requests 2.0" in (await client.get("/metrics")).text

            await eventually(waiting, bool)
            await app.stop()
            replies = await asyncio.gather(*asked)
        assert sorted(answer.status_code for answer in replies) == [200, 503, 503]
        refused = next(answer for answer in replies if answer.status_code == 503)
        assert (refused.json()["code"], refused.headers["retry-after"]) == ("shutting_down", "5")


async def test_a_worker_that_is_not_allowed_keeps_the_router_from_starting() -> None:
    app = build(Settings(host="127.0.0.1", port=0, worker_urls=("http://127.0.0.1:1",), allow_worker="10.0.0.0/8"))
    with pytest.raises(InvalidWorkerUrl):
        await app.start()
    assert app.port == 0


async def test_stopping_leaves_no_task_behind() -> None:
    with SimInThread() as worker:
        async with running(worker.url) as router:
            await router.post("/v1/images/generations", IMAGE)
        here = asyncio.current_task()

        async def left() -> set[str]:
            return {task.get_name() for task in asyncio.all_tasks() if task is not here}

        await eventually(left, lambda names: not names, within_s=2)
