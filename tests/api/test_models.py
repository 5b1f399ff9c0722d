import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.raw_worker import answering, reply, serving
from support.running import RunningRouter, running


async def test_models_are_merged_and_each_is_there_once(image_worker: SimInThread, video_worker: SimInThread) -> None:
    with SimInThread() as twin:
        async with running(image_worker.url, video_worker.url, twin.url) as router:
            status, body = await router.get("/v1/models")
            assert (status, body["object"]) == (200, "list")
            assert [model["id"] for model in body["data"]] == ["sim/stable-diffusion-3-medium", "sim/wan2.1-t2v-1.3b"]
            assert body["data"][1]["task_type"] == "T2V"


@pytest.mark.asyncio(loop_scope="module")
async def test_one_model_is_found_by_its_id_with_its_slashes(shared_router: RunningRouter) -> None:
    status, body = await shared_router.get("/v1/models/sim/stable-diffusion-3-medium")
    assert (status, body["id"], body["task_type"]) == (200, "sim/stable-diffusion-3-medium", "T2I")
    status, encoded = await shared_router.get("/v1/models/sim%2Fstable-diffusion-3-medium")
    assert (status, encoded) == (200, body)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_model_is_404(shared_router: RunningRouter) -> None:
    assert await shared_router.get("/v1/models/nobody") == (
        404,
        {"error": "no worker serves the model 'nobody'", "code": "unknown_model", "model": "nobody"},
    )


async def test_sleeping_workers_are_asked_too(router: RunningRouter) -> None:
    await router.post("/release_memory_occupation")
    try:
        assert (await router.get("/v1/models"))[0] == 200
    finally:
        await router.post("/resume_memory_occupation")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/x"])
async def test_no_worker_is_503_and_no_answer_is_502(empty: RunningRouter, path: str) -> None:
    status, error = await empty.get(path)
    assert (status, error["code"]) == (503, "no_eligible_worker")
    async with serving(answering(reply(200, b'{"status":"ok"}'))) as url:
        await empty.post("/workers", {"url": str(url)})
        status, error = await empty.get(path)
        assert (status, error["code"]) == (502, "no_worker_answered")
