"""The whole router in this process."""

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


async def test_a_dead_worker_is_noticed_without_a_probe() -> None:
    with SimInThread() as worker:
        async with running(worker.url, health_check_interval_s=600) as router:
            await asyncio.sleep(0)
            worker.crash()
            await eventually(lambda: router.worker(worker.url), lambda w: w["status"] == "quarantined", within_s=3)
            worker.start()
            await router.until_status(worker.url, "active")


async def test_a_worker_that_was_refit_and_restarts_is_stale_where_nobody_sends_it_the_refit_again() -> None:
    with SimInThread() as worker:
        async with running(worker.url, health_check_interval_s=600, resync=False) as router:
            await router.post("/update_weights_from_disk", {"model_path": "sim/a", "weight_version": "a"})
            worker.restart()
            await router.until_status(worker.url, "stale")
            assert (await router.worker(worker.url))["weight_version"] is None


async def test_the_jobs_of_a_dead_worker_are_let_go() -> None:
    with SimInThread(SimSettings(model="wan", overhead_seconds=30)) as worker:
        async with running(worker.url, health_check_interval_s=600) as router:
            status, _ = await router.post("/v1/videos", {"prompt": "x", "size": "64x64"})
            assert (status, (await router.worker(worker.url))["jobs"]) == (200, 1)
            worker.crash()
            await router.until_in_flight(worker.url, 0)


async def test_a_busy_worker_that_answers_no_probes_keeps_its_work() -> None:
    with SimInThread(SimSettings(overhead_seconds=1.0)) as worker:
        async with running(
            worker.url, probe_timeout_s=0.05, health_check_interval_s=0.1, health_check_failure_threshold=1
        ) as router:
            work = asyncio.ensure_future(router.client.post("/v1/images/generations", json=IMAGE))
            await router.until_in_flight(worker.url, 1)
            worker.faults(health_delay_s=0.5)

            async def excused() -> bool:
                text = (await router.client.get("/metrics")).text
                return 'sgld_router_probes_total{outcome="timed_out"}' in text

            await eventually(excused, bool)
            assert (await router.worker(worker.url))["status"] == "active"
            assert (await work).status_code == 200
            await router.until_status(worker.url, "quarantined")


async def test_a_dead_engine_behind_a_living_server_is_noticed() -> None:
    with SimInThread() as worker:
        async with running(worker.url, health_check_interval_s=0.1) as router:
            worker.faults(scheduler_dead=True)
            await router.until_status(worker.url, "quarantined")


async def test_the_owner_of_a_job_is_found_by_asking() -> None:
    with SimInThread(SimSettings(model="wan")) as worker:
        async with running(worker.url) as router:
            async with httpx2.AsyncClient(trust_env=False) as direct:
                made = await direct.post(f"{worker.url}/v1/videos", json={"prompt": "x", "size": "64x64"})
            job_id = made.json()["id"]
            assert (await router.get(f"/v1/videos/{job_id}"))[1]["id"] == job_id
            assert (await router.get("/v1/videos/nobody"))[0] == 404


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
