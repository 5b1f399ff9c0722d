"""What sources name, and what becomes of the pool."""

from __future__ import annotations

import asyncio
import random

import pytest
from structlog.testing import capture_logs

from sglang_diffusion_routing.control.discovered import Discovered
from sglang_diffusion_routing.control.membership import WORKERS_MAX, Membership
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.worker_api import Answer, Ended, WorkerApi
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.discovery import READINGS_TO_LEAVE, Named
from sglang_diffusion_routing.core.events import WorkerRegistered
from sglang_diffusion_routing.core.work import Lease, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, WorkerId, WorkerUrl
from sglang_diffusion_routing.schemas import UpdateWorker
from support.deadlines import PATIENCE_S
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core

A, B, C = (f"http://127.0.0.1:{port}" for port in (1, 2, 3))
S, T = "dns://s:1", "file:/t"


class Well(WorkerApi):
    """Every worker is well."""

    def __init__(self) -> None: ...

    async def health(self, url: WorkerUrl, timeout_s: float) -> Answer:
        return Answer(Ended.SUCCEEDED, 200, {})

    async def capability(self, url: WorkerUrl, timeout_s: float) -> Capability | None:
        return Capability(("T2I",), ("m",), learned=True)


class Setting:
    """A pool that sources are read into."""

    def __init__(self, *allowed: str) -> None:
        self.fleet = RecordingFleet()
        prober = Prober(self.fleet, Well(), interval_s=10.0, timeout_s=1.0, rng=random.Random(0))
        self.membership = Membership(self.fleet, prober, AllowList.parse(allowed), first_probe_limit_s=PATIENCE_S)
        self.discovered = Discovered(self.fleet, self.membership)

    async def read(self, source: str, *urls: str, times: int = 1) -> None:
        for _ in range(times):
            await self.discovered.read(source, [Named(WorkerUrl.parse(url)) for url in urls])

    @property
    def labels(self) -> dict[str, tuple[tuple[str, str], ...]]:
        return {worker_id: worker.labels for worker_id, worker in self.fleet.pool.workers.items()}


class Busy:
    """Has a lease, and keeps it until told."""

    def granted(self, lease: Lease) -> None: ...
    def refused(self, error: Exception) -> None: ...
    def lease_cancelled(self, reason: str) -> None: ...
    def worker_draining(self) -> None: ...


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def test_who_is_named_is_registered_with_its_source_as_a_label(setting: Setting) -> None:
    await setting.read(S, A)
    await setting.read(T, B)
    assert setting.labels == {A: (("discovered", S),), B: (("discovered", T),)}


async def test_who_is_named_no_more_is_removed(setting: Setting) -> None:
    await setting.read(S, A, B)
    await setting.read(S, B, times=READINGS_TO_LEAVE)
    assert list(setting.labels) == [B]


async def test_who_is_named_no_more_ends_its_work_first(setting: Setting) -> None:
    await setting.read(S, A)
    setting.fleet.join(A)
    lease = setting.fleet.acquire(WorkSpec(), Busy())
    assert isinstance(lease, Lease)
    await setting.read(S, B, times=READINGS_TO_LEAVE + 1)
    assert {worker_id: worker.status.value for worker_id, worker in setting.fleet.pool.workers.items()} == {
        A: "draining",
        B: "joining",
    }
    setting.fleet.release(lease, Result.OK, 200)
    assert list(setting.labels) == [B]


async def test_who_is_named_again_while_it_drains_stays(setting: Setting) -> None:
    await setting.read(S, A)
    worker = setting.fleet.join(A)
    lease = setting.fleet.acquire(WorkSpec(), Busy())
    assert isinstance(lease, Lease)
    await setting.read(S, B, times=READINGS_TO_LEAVE)
    await setting.read(S, A, B)
    setting.fleet.release(lease, Result.OK, 200)
    assert (worker.status.value, list(setting.labels)) == ("active", [A, B])


async def test_who_was_registered_otherwise_is_neither_marked_nor_removed(setting: Setting) -> None:
    await setting.membership.enlist(A)
    await setting.read(S, A, B)
    await setting.read(S, B, times=READINGS_TO_LEAVE)
    assert setting.labels == {A: (), B: (("discovered", S),)}


async def test_who_is_registered_while_its_name_is_looked_up_is_somebody_elses(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://gpu.test:1"

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        setting.fleet.apply(WorkerRegistered(WorkerUrl.parse(url), (("mine", "yes"),)))
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    await setting.discovered.read(S, [Named(WorkerUrl.parse(url), (("group", "x"),), 3)])
    assert setting.labels == {url: (("mine", "yes"),)}


async def test_who_loses_its_label_is_whoever_took_it_off(setting: Setting) -> None:
    await setting.read(S, A, B)
    worker = setting.membership.find(WorkerId(A))
    await setting.membership.update(worker, UpdateWorker(labels={"mine": "yes"}))
    await setting.read(S, B, times=READINGS_TO_LEAVE)
    assert setting.labels == {A: (("mine", "yes"),), B: (("discovered", S),)}


async def test_who_was_removed_by_hand_stays_out_while_it_is_named(setting: Setting) -> None:
    await setting.read(S, A, B)
    setting.membership.remove(setting.membership.find(WorkerId(A)), force=False)
    await setting.read(S, A, B, times=3)
    assert list(setting.labels) == [B]


async def test_labels_and_cap_come_from_the_source_and_change_with_it(setting: Setting) -> None:
    url = WorkerUrl.parse(A)
    await setting.discovered.read(S, [Named(url, (("group", "x"),), 3)])
    worker = setting.membership.find(WorkerId(A))
    assert (worker.labels, worker.max_concurrency) == ((("discovered", S), ("group", "x")), 3)
    await setting.discovered.read(S, [Named(url, (("group", "y"),), 0)])
    assert (worker.labels, worker.max_concurrency) == ((("discovered", S), ("group", "y")), 0)
    await setting.discovered.read(S, [Named(url)])
    assert (worker.labels, worker.max_concurrency) == ((("discovered", S), ("group", "y")), 0)


async def test_who_may_not_be_a_worker_keeps_nobody_else_out_and_is_named_once() -> None:
    setting = Setting("127.0.0.1")
    refused = "http://10.0.0.1:1"
    with capture_logs() as logs:
        await setting.read(S, refused, A, times=3)
    assert list(setting.labels) == [A]
    assert [entry for entry in logs if entry["event"] == "worker_kept_out"] == [
        {
            "event": "worker_kept_out",
            "log_level": "warning",
            "worker": refused,
            "source": S,
            "reason": f"worker URL '{refused}' is not on the list of allowed workers",
        }
    ]


async def test_who_found_no_room_joins_when_there_is_some(setting: Setting) -> None:
    for n in range(WORKERS_MAX):
        setting.fleet.pool.handle(WorkerRegistered(WorkerUrl("http", "10.0.0.1", n + 1)), 0.0)
    await setting.read(S, A)
    assert A not in setting.labels
    setting.membership.remove(setting.membership.find(WorkerId("http://10.0.0.1:7")), force=True)
    await setting.read(S, A)
    assert A in setting.labels
