import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from sglang_diffusion_routing.control.prober import AT_ONCE, Prober
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.events import (
    CapabilityLearned,
    ProbeFailed,
    ProbeSucceeded,
    RemovalRequested,
    WorkerRegistered,
)
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.worker import Capability, Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.http1.connect import Connector
from support.fleet import RecordingFleet
from support.raw_worker import Handler, answering, reply, serving
from support.running import eventually

MODELS = b'{"data":[{"id":"m","task_type":"T2V"}]}'


def well(models: bytes = MODELS, status: int = 200) -> Handler:
    """A worker in good health that answers the question for its models so."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(status, models) if b"/v1/models" in head else reply(200, b'{"status":"ok"}'))

    return handle


class Probing:
    """A prober on a fleet without effects."""

    def __init__(self, fleet: RecordingFleet, prober: Prober) -> None:
        self.fleet = fleet
        self.prober = prober

    def register(self, url: WorkerUrl) -> Worker:
        self.fleet.apply(WorkerRegistered(url))
        self.fleet.events.clear()
        return self.fleet.pool.workers[WorkerId(str(url))]

    async def probe(self, worker: Worker) -> list[object]:
        await self.prober.probe(worker)
        return list(self.fleet.events)


@asynccontextmanager
async def probing(timeout_s: float = 5.0, interval_s: float = 10.0) -> AsyncIterator[Probing]:
    fleet = RecordingFleet()
    async with WorkerApi(Connector(), connect_timeout_s=2.0) as api:
        prober = Prober(fleet, api, interval_s=interval_s, timeout_s=timeout_s, rng=random.Random(1))
        yield Probing(fleet, prober)
        await prober.aclose()


async def test_the_first_success_comes_after_what_the_worker_makes() -> None:
    async with serving(well()) as url, probing() as run:
        worker = run.register(url)
        assert await run.probe(worker) == [
            CapabilityLearned(worker.worker_id, 1, Capability(("T2V",), ("m",), learned=True)),
            ProbeSucceeded(worker.worker_id, 1),
        ]
        assert run.prober.outcomes == {"succeeded": 1}


async def test_a_healthy_worker_is_not_asked_again_what_it_makes() -> None:
    async with serving(well()) as url, probing() as run:
        worker = run.register(url)
        await run.probe(worker)
        run.fleet.events.clear()
        assert await run.probe(worker) == [ProbeSucceeded(worker.worker_id, 1)]


@pytest.mark.parametrize("models", [b"{}", b"not json", b'{"data":[{"id":"m"}]}'])
async def test_a_worker_that_does_not_say_what_it_makes_joins_all_the_same(models: bytes) -> None:
    async with serving(well(models)) as url, probing() as run:
        worker = run.register(url)
        events = await run.probe(worker)
        assert events[-1] == ProbeSucceeded(worker.worker_id, 1)
        assert (worker.capability.task_types, worker.capability.learned) == (None, True)


@pytest.mark.parametrize(("status", "learned"), [(404, True), (405, True), (501, True), (500, False), (503, False)])
async def test_a_worker_that_cannot_answer_what_it_makes_is_not_taken_for_one_without_a_model(
    status: int, *, learned: bool
) -> None:
    async with serving(well(b"{}", status)) as url, probing() as run:
        worker = run.register(url)
        assert (await run.probe(worker))[-1] == ProbeSucceeded(worker.worker_id, 1)
        assert (worker.capability.learned, worker.weight_group) == (learned, "" if learned else None)


@pytest.mark.parametrize(
    ("raw", "failure"),
    [
        (reply(503, b""), ProbeFailure.BAD_ANSWER),
        (reply(500, b"Internal Server Error"), ProbeFailure.BAD_ANSWER),
        (reply(204, b""), ProbeFailure.BAD_ANSWER),
        (b"", ProbeFailure.BAD_ANSWER),
        (b"SSH-2.0\r\n", ProbeFailure.BAD_ANSWER),
        (reply(503, b'{"status":"unhealthy","error":"Scheduler worker exited"}'), ProbeFailure.ENGINE_DIED),
    ],
)
async def test_a_failure_says_how(raw: bytes, failure: ProbeFailure) -> None:
    async with serving(answering(raw)) as url, probing() as run:
        worker = run.register(url)
        assert await run.probe(worker) == [ProbeFailed(worker.worker_id, 1, failure)]


async def test_nobody_there_and_no_answer_are_told_apart() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with probing(timeout_s=0.1) as run:
        async with serving(silent) as url:
            worker = run.register(url)
            assert await run.probe(worker) == [ProbeFailed(worker.worker_id, 1, ProbeFailure.TIMED_OUT)]
        run.fleet.events.clear()
        assert await run.probe(worker) == [ProbeFailed(worker.worker_id, 1, ProbeFailure.REFUSED)]


async def test_a_second_probe_joins_the_first() -> None:
    asked = 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        head = await reader.readuntil(b"\r\n\r\n")
        asked += b"/health" in head
        writer.write(reply(200, MODELS))

    async with serving(counting) as url, probing() as run:
        worker = run.register(url)
        first = run.prober.probe(worker)
        assert run.prober.probe(worker) is first
        await first
        assert asked == 1
        assert run.prober.probe(worker) is not first


async def test_a_worker_that_is_registered_anew_is_probed_anew() -> None:
    async with serving(well()) as url, probing() as run:
        earlier = run.register(url)
        late = run.prober.probe(earlier)
        run.fleet.apply(RemovalRequested(earlier.worker_id))
        worker = run.register(url)
        await run.probe(worker)
        assert worker.health is Health.HEALTHY
        await late
        assert worker.incarnation == 2


async def test_probes_are_made_when_they_are_due() -> None:
    async with serving(well()) as url, probing(interval_s=10.0) as run:
        run.register(url)
        run.prober.start()

        async def succeeded() -> int:
            return run.prober.outcomes["succeeded"]

        await eventually(succeeded, lambda count: count == 1)
        run.fleet.instant_s += 7.9
        looked = run.fleet.clock_reads

        async def looks() -> int:
            return run.fleet.clock_reads - looked

        await eventually(looks, lambda count: count == 2)
        assert run.prober.outcomes["succeeded"] == 1
        run.fleet.instant_s += 2.2
        await eventually(succeeded, lambda count: count == 2)


async def test_many_workers_are_not_probed_all_at_once() -> None:
    open_now, most = 0, 0
    go_on = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/health" in head:
            open_now += 1
            most = max(most, open_now)
            if most == AT_ONCE:
                go_on.set()
            await go_on.wait()
            open_now -= 1
        writer.write(reply(200, MODELS))

    async with AsyncExitStack() as stack, probing() as run:
        urls = [await stack.enter_async_context(serving(slow)) for _ in range(AT_ONCE + 16)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(run.prober.probe(run.register(url)) for url in urls))
        assert (most, run.prober.outcomes["succeeded"]) == (AT_ONCE, AT_ONCE + 16)


async def test_why_a_worker_does_not_answer_is_told_once_until_it_changes() -> None:
    async with serving(answering(reply(503, b'{"error":"warming up"}'))) as url, probing() as run:
        worker = run.register(url)
        with capture_logs() as lines:
            for _ in range(3):
                await run.probe(worker)
    expected = {"event": "probe_failed", "log_level": "info", "worker": worker.worker_id, "why": "warming up"}
    assert [line for line in lines if line["event"] == "probe_failed"] == [expected]
    async with probing() as run:
        worker = run.register(url)
        with capture_logs() as lines:
            await run.probe(worker)
            run.prober.forget(worker.worker_id)
            await run.probe(worker)
        why = f"cannot connect to {url}: connection refused"
        assert [line["why"] for line in lines if line["event"] == "probe_failed"] == [why, why]
