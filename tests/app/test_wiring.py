"""The whole router in this process."""

import asyncio

import httpx2

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
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
