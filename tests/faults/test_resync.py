"""A worker that has missed refits gets no work before it has the group's weights, and then gets it without help.

Whole routers and simulated workers over real sockets; every image tells by its bytes which weights have made it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import numpy as np
import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.tensors import to_safetensors
from sglang_diffusion_routing.sim.weights import shapes_of
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

IMAGE = {"prompt": "a lighthouse", "size": "64x64", "num_inference_steps": 2, "seed": 1, "response_format": "b64_json"}
BY = "x-sglang-router-worker"
COUNTED = re.compile(r'^sgld_router_resyncs_total\{outcome="(\w+)"\} ([0-9]+)', re.MULTILINE)


class Fleet:
    """Some workers behind a router that hears of deaths by its silent connections alone."""

    def __init__(self, router: RunningRouter, workers: list[SimInThread], stack: AsyncExitStack) -> None:
        self.router = router
        self.workers = workers
        self._stack = stack

    async def disk(self, version: str) -> None:
        await self._refit("/update_weights_from_disk", {"model_path": f"sim/{version}", "weight_version": version})

    async def lora(self, version: str) -> None:
        body = {"lora_nickname": "policy", "lora_path": f"sim/{version}", "weight_version": version}
        await self._refit("/v1/set_lora", body)

    async def tensors(self, version: str) -> None:
        gain = {"style.gain": np.full(shapes_of("transformer")["style.gain"], 0.5, dtype=np.float32)}
        body = {"serialized_named_tensors": [base64.b64encode(to_safetensors(gain)).decode()]}
        await self._refit(f"/update_weights_from_tensor?weight_version={version}", body)

    async def _refit(self, route: str, body: object) -> None:
        status, reply = await self.router.post(route, body)
        assert (status, reply["success"]) == (200, True), reply

    async def checksums_known(self) -> None:
        """Wait until somebody has said what the target's weights hash to."""

        async def known() -> bool:
            groups = (await self.router.get("/weights"))[1]["groups"]
            return all(group["checksums"] is not None for group in groups.values())

        await eventually(known, bool)

    def replace(self, worker: SimInThread, **settings: Any) -> SimInThread:
        """Have another process take a worker's address, with other settings."""
        worker.crash()
        port = int(worker.url.rpartition(":")[2])
        other = SimInThread(SimSettings(port=port, strict_ports=True, **settings))
        self.workers[self.workers.index(worker)] = self._stack.enter_context(other)
        return other

    async def until(self, worker: SimInThread, **wanted: object) -> dict[str, Any]:
        """Wait until a worker is shown with these fields."""

        def is_it(shown: dict[str, Any]) -> bool:
            return all(shown[name] == value for name, value in wanted.items())

        return await eventually(lambda: self.router.worker(worker.url), is_it)

    async def resyncs(self) -> dict[str, int]:
        """Count the resyncs so far by outcome, without those that never were."""
        text = (await self.router.client.get("/metrics")).text
        return {outcome: int(number) for outcome, number in COUNTED.findall(text) if int(number)}

    async def until_resyncs(self, **wanted: int) -> None:
        await eventually(self.resyncs, lambda counted: counted == wanted)

    async def change(self, worker: SimInThread, **fields: object) -> None:
        status, reply = await self.router.ask("PUT", f"/workers/{worker.url}", json=fields)
        assert status == 200, reply

    async def join(self) -> SimInThread:
        """Register another worker."""
        worker = self._stack.enter_context(SimInThread())
        status, reply = await self.router.post("/workers", {"url": worker.url})
        assert status == 200, reply
        self.workers.append(worker)
        return worker

    async def image(self) -> httpx2.Response:
        reply = await self.router.client.post("/v1/images/generations", json=IMAGE)
        assert reply.status_code == 200, reply.text
        return reply

    async def image_by(self, worker: SimInThread) -> tuple[str, str]:
        """Have a worker make an image; give what its weights were called, and the image's digest."""
        statuses = await self.router.statuses()
        others = [other for other in self.workers if other is not worker and statuses[other.url] == "active"]
        for other in others:
            await self.change(other, state="drained")
        reply = await self.image()
        for other in others:
            await self.change(other, state="active")
        assert reply.headers[BY] == worker.url
        content = base64.b64decode(reply.json()["data"][0]["b64_json"])
        return reply.headers["x-sglang-router-weight-version"], hashlib.sha256(content).hexdigest()


@asynccontextmanager
async def fleet_of(count: int, **settings: Any) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        workers = [stack.enter_context(SimInThread()) for _ in range(count)]
        urls = [worker.url for worker in workers]
        router = await stack.enter_async_context(running(*urls, health_check_interval_s=600, **settings))
        yield Fleet(router, workers, stack)


async def test_a_restarted_worker_gets_the_checkpoint_and_then_the_lora_again() -> None:
    async with fleet_of(2) as fleet:
        one, other = fleet.workers
        await fleet.disk("v1")
        await fleet.lora("v2")
        made = await fleet.image_by(one)
        other.restart()
        await fleet.until_resyncs(replayed=1)
        shown = await fleet.until(other, status="active", weight_version="v2")
        assert shown["reason"] == ""
        assert await fleet.image_by(other) == made
        assert made[0] == "v2"


async def test_the_last_worker_of_all_comes_back_with_the_right_weights() -> None:
    async with fleet_of(1) as fleet:
        (worker,) = fleet.workers
        await fleet.disk("v1")
        made = await fleet.image_by(worker)
        worker.restart()
        # Work that comes meanwhile waits for it.
        assert await fleet.image_by(worker) == made
        assert await fleet.resyncs() == {"replayed": 1}


async def test_after_tensors_a_restarted_worker_stays_out_until_the_next_refit() -> None:
    async with fleet_of(2) as fleet:
        one, other = fleet.workers
        await fleet.tensors("t1")
        await fleet.checksums_known()
        other.restart()
        await fleet.until_resyncs(refused=1)
        shown = await fleet.until(other, status="stale")
        assert shown["reason"] == "it does not have 't1'; weights 't1' came as tensors, which cannot be sent again"
        assert {(await fleet.image()).headers[BY] for _ in range(4)} == {one.url}
        await fleet.disk("v2")
        await fleet.until(other, status="active", weight_version="v2")


async def test_after_tensors_the_same_process_is_recognised_by_its_checksums() -> None:
    async with fleet_of(2) as fleet:
        await fleet.tensors("t1")
        await fleet.checksums_known()
        fleet.workers[1].cut_silent()
        await fleet.until_resyncs(checked=1)
        await fleet.until(fleet.workers[1], status="active", weight_version="t1")


async def test_a_worker_that_recovers_from_quarantine_gets_what_it_missed() -> None:
    async with fleet_of(2) as fleet:
        one, other = fleet.workers
        await fleet.change(other, is_dead=True)
        await fleet.disk("v1")
        made = await fleet.image_by(one)
        await fleet.change(other, is_dead=False)
        await fleet.until_resyncs(replayed=1)
        await fleet.until(other, status="active", weight_version="v1")
        assert await fleet.image_by(other) == made


async def test_a_worker_that_refused_gets_it_again_when_it_does_not_any_more() -> None:
    async with fleet_of(2) as fleet:
        one, other = fleet.workers
        other.faults(refuse_refits=True)
        status, reply = await fleet.router.post(
            "/update_weights_from_disk", {"model_path": "sim/v1", "weight_version": "v1"}
        )
        assert (status, reply["success"]) == (200, False)
        await fleet.until_resyncs(refused=1)
        shown = await fleet.until(other, status="stale", weight_version="0")
        assert shown["reason"].startswith("it refused the refit to 'v1': ")
        other.faults(refuse_refits=False)
        await fleet.until(other, status="active", weight_version="v1")
        assert await fleet.image_by(other) == await fleet.image_by(one)


async def test_a_worker_that_joins_late_gets_what_the_others_have() -> None:
    async with fleet_of(1) as fleet:
        await fleet.disk("v1")
        await fleet.lora("v2")
        made = await fleet.image_by(fleet.workers[0])
        newcomer = await fleet.join()
        await fleet.until_resyncs(replayed=1)
        await fleet.until(newcomer, status="active", weight_version="v2")
        assert await fleet.image_by(newcomer) == made


async def test_a_worker_that_wakes_stale_gets_what_it_slept_through() -> None:
    async with fleet_of(2) as fleet:
        one, other = fleet.workers
        await fleet.router.post(f"/release_memory_occupation?selector={other.url}")
        await fleet.disk("v1")
        made = await fleet.image_by(one)
        await fleet.until(other, status="sleeping")
        await fleet.router.post(f"/resume_memory_occupation?selector={other.url}")
        await fleet.until_resyncs(replayed=1)
        await fleet.until(other, status="active", weight_version="v1")
        assert await fleet.image_by(other) == made


async def test_a_worker_that_somebody_put_to_sleep_is_found_out_by_a_refit_and_mended_when_it_wakes() -> None:
    async with fleet_of(2) as fleet:
        one, other = fleet.workers
        async with httpx2.AsyncClient(trust_env=False) as trainer:
            await trainer.post(f"{other.url}/release_memory_occupation")
        status, reply = await fleet.router.post(
            "/update_weights_from_disk", {"model_path": "sim/v1", "weight_version": "v1"}
        )
        assert (status, [row["status_code"] for row in reply["results"]]) == (200, [200, 500])
        await fleet.until(other, status="sleeping", weight_version="0")
        await fleet.router.post(f"/resume_memory_occupation?selector={other.url}")
        await fleet.until_resyncs(replayed=1)
        await fleet.until(other, status="active", weight_version="v1")
        assert await fleet.image_by(other) == await fleet.image_by(one)


async def test_a_cut_connection_costs_a_look_and_no_refit() -> None:
    async with fleet_of(2) as fleet:
        await fleet.disk("v1")
        await fleet.checksums_known()
        for number in (1, 2):
            fleet.workers[1].cut_silent()
            await fleet.until_resyncs(checked=number)
            await fleet.until(fleet.workers[1], status="active", weight_version="v1")


async def test_a_connection_that_is_cut_while_the_worker_works_leaves_it_at_work() -> None:
    async with fleet_of(1) as fleet:
        (worker,) = fleet.workers
        await fleet.disk("v1")
        await fleet.checksums_known()
        worker.faults(slow_factor=100)
        work = asyncio.ensure_future(fleet.router.client.post("/v1/images/generations", json=IMAGE))
        await fleet.router.until_in_flight(worker.url, 1)
        worker.cut_silent()
        reply = await work
        assert (reply.status_code, reply.headers["x-sglang-router-weight-version"]) == (200, "v1")
        assert (await fleet.resyncs(), (await fleet.router.statuses())[worker.url]) == ({}, "active")


async def test_other_weights_after_the_same_refits_keep_a_worker_out() -> None:
    async with fleet_of(2) as fleet:
        one, other = fleet.workers
        await fleet.disk("v1")
        await fleet.checksums_known()
        fleet.replace(other, faults='{"misload_refits": true}')
        await fleet.until_resyncs(refused=1)
        shown = await fleet.until(other, status="suspect", weight_version=None)
        assert re.fullmatch(
            r"its weights are not those of 'v1' \(transformer [0-9a-f]{12}, not [0-9a-f]{12}\); "
            "the same refits gave it others",
            shown["reason"],
        )
        assert {(await fleet.image()).headers[BY] for _ in range(4)} == {one.url}


async def test_without_resync_a_restarted_worker_waits_for_the_next_refit() -> None:
    async with fleet_of(2, resync=False) as fleet:
        other = fleet.workers[1]
        await fleet.disk("v1")
        await fleet.checksums_known()
        other.restart()
        shown = await fleet.until(other, status="stale")
        assert "--no-resync" in shown["reason"]
        await fleet.disk("v2")
        await fleet.until(other, status="active", weight_version="v2")
        assert "replayed" not in await fleet.resyncs()


async def test_without_resync_a_worker_that_still_has_them_is_let_back() -> None:
    async with fleet_of(2, resync=False) as fleet:
        await fleet.disk("v1")
        await fleet.checksums_known()
        fleet.workers[1].cut_silent()
        await fleet.until_resyncs(checked=1)
        await fleet.until(fleet.workers[1], status="active", weight_version="v1")


async def test_weights_that_the_trainer_reported_are_not_sent_again() -> None:
    async with fleet_of(2) as fleet:
        one, other = fleet.workers
        status, reply = await fleet.router.post("/weights/reported", {"weight_version": "pushed"})
        assert (status, reply["success"]) == (200, True)
        await fleet.checksums_known()
        fleet.replace(other, weights_seed=1)
        await fleet.until_resyncs(refused=1)
        shown = await fleet.until(other, status="stale")
        assert shown["reason"] == "it does not have 'pushed'; weights 'pushed' did not come through the router"
        await fleet.router.post("/weights/reported", {"weight_version": "pushed again"})
        await fleet.until(other, status="active", weight_version="pushed again")
        assert (await fleet.router.statuses())[one.url] == "active"


async def test_before_any_refit_a_restarted_worker_must_be_like_its_peers() -> None:
    async with fleet_of(2) as fleet:
        _, other = fleet.workers
        other.restart()
        await fleet.until_resyncs(checked=1)
        await fleet.until(other, status="active", weight_version="0")
        fleet.replace(other, weights_seed=1)
        await fleet.until_resyncs(checked=1, refused=1)
        shown = await fleet.until(other, status="stale", weight_version=None)
        assert shown["reason"] == "its weights differ from what its peers started with; the next refit brings it back"
        await fleet.disk("v1")
        await fleet.until(other, status="active", weight_version="v1")


async def test_before_any_refit_the_only_worker_may_be_replaced() -> None:
    async with fleet_of(1) as fleet:
        worker = fleet.replace(fleet.workers[0], weights_seed=1)
        await fleet.until(worker, status="active", weight_version="0")


async def test_many_restarts_at_once_are_all_mended() -> None:
    async with fleet_of(6) as fleet:
        await fleet.disk("v1")
        await fleet.lora("v2")
        made = await fleet.image_by(fleet.workers[0])
        for worker in fleet.workers[1:]:
            worker.restart()
        await fleet.until_resyncs(replayed=5)
        for worker in fleet.workers[1:]:
            await fleet.until(worker, status="active", weight_version="v2")
        assert {await fleet.image_by(worker) for worker in fleet.workers} == {made}
