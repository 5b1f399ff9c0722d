"""What a scrape reads."""

import asyncio
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from http1.peers import eventually
from proxy.steps import started
from proxy.world import World, post, reply, serve, sized, world
from sglang_diffusion_routing import __version__, metrics
from sglang_diffusion_routing.app import samples as module
from sglang_diffusion_routing.app.samples import Sources, reader
from sglang_diffusion_routing.core.events import WorkerRegistered
from sglang_diffusion_routing.core.work import Result, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import Aborted
from sglang_diffusion_routing.launchers.slots import Phase, SlotView
from sglang_diffusion_routing.launchers.supervisor import Supervisor
from sglang_diffusion_routing.metrics.histogram import Distribution
from sglang_diffusion_routing.metrics.kinds import Declared, Kind, Samples
from sglang_diffusion_routing.metrics.text import PROCESS, render
from sglang_diffusion_routing.runtime.gallery import Gallery
from sglang_diffusion_routing.runtime.lag import Lag
from support.runtime import runtime

DECLARED = {value for value in vars(metrics).values() if isinstance(value, Declared)}


class Slots:
    """A supervisor of two places: one has been started three times and serves, one is given up."""

    def __init__(self) -> None:
        self.slots = [
            SlotView(number, phase, None, None, restarts, None, "", 0.0, {}, ())
            for number, (phase, restarts) in enumerate([(Phase.READY, 2), (Phase.CRASH_LOOPING, 4)])
        ]


@asynccontextmanager
async def sources(one: World, supervisor: Slots | None = None) -> AsyncIterator[Sources]:
    async with runtime() as run:
        yield Sources(
            fleet=one.fleet,
            data_plane=one.plane,
            api=run.api,
            prober=run.prober,
            sentinels=run.sentinels,
            refitter=run.refitter,
            resyncer=run.resyncer,
            lag=Lag(),
            supervisor=cast("Supervisor | None", supervisor),
            gallery=Gallery(1, one.fleet.now_s),
        )


async def read(one: World, supervisor: Slots | None = None) -> Samples:
    async with sources(one, supervisor) as given:
        return await reader(given)()


async def test_every_declared_metric_is_read_with_its_labels_and_in_its_kind() -> None:
    async with world(1) as one:
        client, peer, _ = await started(one)
        await peer.send(sized())
        await reply(client)
        samples = await read(one, Slots())
    assert set(samples) == DECLARED
    for declared, rows in samples.items():
        for labels, number in rows:
            assert len(labels) == len(declared.labels), declared.name
            assert isinstance(number, Distribution) is (declared.kind is Kind.HISTOGRAM), declared.name


async def test_what_is_read_is_what_prometheus_understands() -> None:
    async with world(1) as one:
        client, peer, _ = await started(one)
        await peer.send(sized())
        await reply(client)
        samples = await read(one)
    families = {family.name: family for family in text_string_to_metric_families(render(samples, PROCESS).decode())}
    # A counter's family is called without its suffix.
    assert {declared.name.removesuffix("_total") for declared in DECLARED} == {
        name for name in families if name.startswith("sgld_router_")
    }
    for declared in DECLARED:
        family = families[declared.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (declared.kind.value, declared.meaning)
    assert {"process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds"} <= set(families)


async def test_work_is_told_by_route_and_by_worker() -> None:
    async with world(2) as two:
        for status in (b"200 OK", b"404 No"):
            client, peer, _ = await started(two)
            await peer.send(sized(b"", status))
            await reply(client)
        samples = await read(two)
    rows = {declared: dict(found) for declared, found in samples.items()}
    assert rows[metrics.REQUESTS] == {("rollout", "2xx"): 1, ("rollout", "4xx"): 1}
    ids = [worker.worker_id for worker in two.workers]
    assert sum(rows[metrics.WORKER_REQUESTS].values()) == 2  # type: ignore[arg-type]
    assert set(rows[metrics.WORKER_REQUESTS]) <= {(worker_id, "rollout", "ok") for worker_id in ids}
    assert rows[metrics.LEASES_ENDED][("ok",)] == 2
    assert set(rows[metrics.WORKER_IN_FLIGHT]) == {(worker_id,) for worker_id in ids}
    assert rows[metrics.WORKER_WEIGHTS] == {(worker_id, "0"): 1 for worker_id in ids}
    assert rows[metrics.WORKER_STATUS] == {(worker_id, "active"): 1 for worker_id in ids}
    assert rows[metrics.THUMBNAILS] == {("made",): 0, ("missed",): 0, ("none",): 0, ("unreadable",): 0}
    assert rows[metrics.WORKER_HEALTH] == {(worker_id, "healthy"): 1 for worker_id in ids}
    assert {route for (route,) in rows[metrics.TIME_TO_HEAD]} == {"rollout"}


async def test_the_queue_and_who_holds_it_are_told() -> None:
    async with world(1, cap=1) as one:
        now_s = 100.0
        one.fleet.now_s = lambda: now_s
        client, peer, _ = await started(one)
        waiting = await one.ask(post())
        await eventually(lambda: one.fleet.scheduler.queued == 1)
        now_s = 107.0
        one.fleet.pause()
        rows = {declared: list(found) for declared, found in (await read(one)).items()}
        assert rows[metrics.QUEUED] == [((), 1)]
        assert rows[metrics.QUEUE_OLDEST] == [((), 7)]
        assert rows[metrics.PAUSED] == [((), True)]
        assert rows[metrics.ASLEEP] == [((), False)]
        one.fleet.resume()
        await peer.send(sized())
        await reply(client)
        await serve(peer, sized())
        await reply(waiting)
        one.fleet.drop_queued(Aborted())
        assert list((await read(one))[metrics.QUEUE_OLDEST]) == [((), 0)]


async def test_slots_are_told_where_workers_are_started_and_nothing_where_not() -> None:
    async with world(0) as none:
        with_slots, without = await read(none, Slots()), await read(none)
    assert list(with_slots[metrics.SLOTS]) == [(("ready",), 1), (("crash_looping",), 1)]
    assert list(with_slots[metrics.RESTARTS]) == [((), 6)]
    assert (list(without[metrics.SLOTS]), list(without[metrics.RESTARTS])) == ([], [((), 0)])


async def test_what_runs_is_told() -> None:
    async with world(0) as none:
        assert list((await read(none))[metrics.BUILD]) == [((__version__, platform.python_version()), 1)]


async def test_many_workers_are_read_a_few_at_a_time_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 4)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with world(0) as none, sources(none) as given:
        for number in range(10):
            given.fleet.apply(WorkerRegistered(WorkerUrl("http", f"w{number}", 1)))
        counting = asyncio.ensure_future(count())
        await asyncio.sleep(0)
        before = turns
        samples = await reader(given)()
        between = turns - before
        counting.cancel()
    assert [labels for labels, _ in samples[metrics.WORKER_ROUTABLE]] == [
        (f"http://w{number}:1",) for number in range(10)
    ]
    assert between == 2


@pytest.mark.parametrize("result", Result)
async def test_an_outcome_is_the_name_of_its_result(result: Result) -> None:
    async with world(0) as none, sources(none) as given:
        given.fleet.apply(WorkerRegistered(WorkerUrl("http", "w", 1)))
        [worker] = given.fleet.pool.workers.values()
        given.fleet.release(given.fleet.adopt(worker, WorkSpec(route="x")), result)
        samples = await reader(given)()
    assert list(samples[metrics.WORKER_REQUESTS]) == [(("http://w:1", "x", result.name.lower()), 1)]
