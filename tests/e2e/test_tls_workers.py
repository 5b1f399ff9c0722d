"""Workers behind TLS with certificates of a private authority, as the whole router meets them."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.authority import Authority, Files
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

IMAGE = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 2, "response_format": "b64_json", "seed": 1}


@pytest.fixture(scope="module")
def known(authority: Authority) -> Files:
    return authority.issue("router.example")


def served(files: Files, client_ca: str | None = None) -> SimSettings:
    return SimSettings(
        ssl_certfile=files.cert, ssl_keyfile=files.key, ssl_ca_certs=client_ca, seconds_per_mpx_step=0.001
    )


@pytest.fixture(scope="module")
def worker(authority: Authority) -> Iterator[SimInThread]:
    """One that wants a certificate from whoever connects."""
    with SimInThread(served(authority.issue("127.0.0.1"), authority.ca)) as one:
        yield one


async def health_of(router: RunningRouter, url: str) -> str:
    return str((await router.worker(url))["health"])


async def test_every_way_to_a_worker_is_checked_and_shows_the_certificate(
    worker: SimInThread, authority: Authority, known: Files
) -> None:
    """Probe, capability, sentinel, work, refit and sleep: each of them needs both sides' certificates."""
    certificates = {"worker_ca": authority.ca, "worker_cert": known.cert, "worker_cert_key": known.key}
    async with running(worker.url, **certificates) as router:
        shown = await eventually(lambda: router.worker(worker.url), lambda shown: shown["task_types"] != [])
        assert (worker.url[:8], shown["status"], shown["health"]) == ("https://", "active", "healthy")
        status, made = await router.post("/v1/images/generations", IMAGE)
        assert (status, len(made["data"])) == (200, 1)
        status, refit = await router.post("/update_weights_from_disk", {"model_path": "sim/step-1"})
        assert (status, refit["success"]) == (200, True)
        status, slept = await router.post("/release_memory_occupation")
        assert (status, slept["results"][0]["status_code"]) == (200, 200)
        await router.until_status(worker.url, "sleeping")
        status, woken = await router.post("/resume_memory_occupation")
        assert (status, woken["results"][0]["status_code"]) == (200, 200)
        # Its end is what tells of a death: the silent connection stands through TLS as well.
        assert "sgld_router_sentinel_ends_total 0.0" in (await router.client.get("/metrics")).text


@pytest.mark.parametrize("lacks", ["authority", "certificate", "name"])
async def test_a_worker_that_cannot_be_believed_gets_nothing(
    worker: SimInThread, authority: Authority, known: Files, lacks: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        own = {"worker_cert": known.cert, "worker_cert_key": known.key}
        settings = {"worker_ca": authority.ca, **own}
        if lacks == "authority":
            settings["worker_ca"] = Authority(tmp_path).ca
        elif lacks == "certificate":
            settings = {"worker_ca": authority.ca}
        else:
            worker = stack.enter_context(SimInThread(served(authority.issue("another.example"))))
        async with running(worker.url, probe_timeout_s=2, **settings) as router:
            await eventually(lambda: health_of(router, worker.url), lambda health: health != "unknown")
            assert await health_of(router, worker.url) == "quarantined"
            status, _ = await router.post("/v1/images/generations", IMAGE)
            assert status in {502, 503}


async def test_the_system_s_authorities_do_not_know_a_private_one(worker: SimInThread) -> None:
    async with running(worker.url, probe_timeout_s=2) as router:
        await eventually(lambda: health_of(router, worker.url), lambda health: health == "quarantined")


async def test_files_that_cannot_be_used_keep_the_router_from_starting() -> None:
    with pytest.raises(BadSetting, match="--worker-ca names a file that cannot be read, /nowhere"):
        async with running(worker_ca="/nowhere"):
            pass


async def test_what_is_made_comes_whole_over_tls(worker: SimInThread, authority: Authority, known: Files) -> None:
    async with running(worker.url, worker_ca=authority.ca, worker_cert=known.both) as router:
        bodies = [{**IMAGE, "size": "512x512", "seed": seed} for seed in (1, 1, 2, 2)]
        replies = await asyncio.gather(*(router.post("/v1/images/generations", body) for body in bodies))
    made = [reply["data"][0]["b64_json"] for _, reply in replies]
    assert made[0] == made[1] != made[2] == made[3]
