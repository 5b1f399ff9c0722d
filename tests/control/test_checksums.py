import asyncio

import pytest

from sglang_diffusion_routing.control.checksums import VERSIONS_MAX, Baselines
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl

pytestmark = pytest.mark.core
BASE = Unversioned.BASE


class Sums(WorkerApi):
    """Answers checksums from memory."""

    def __init__(self) -> None:
        self.given: dict[str, str] | None = {"transformer": "t1", "vae": "v1"}
        self.asked = 0
        self.hold: asyncio.Event | None = None

    async def checksums(self, url: WorkerUrl, timeout_s: float) -> dict[str, str] | None:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        return self.given


@pytest.fixture
def worker() -> Worker:
    return Worker(WorkerId("http://a:1"), WorkerUrl.parse("http://a:1"), 1, 0.0)


@pytest.fixture
def sums() -> Sums:
    return Sums()


@pytest.fixture
def baselines(sums: Sums) -> Baselines:
    return Baselines(sums, 5.0)


async def test_one_worker_is_asked_for_what_many_have(baselines: Baselines, sums: Sums, worker: Worker) -> None:
    for _ in range(3):
        await baselines.take_first(worker, "g")
    assert sums.asked == 1
    await baselines.take_first(worker, "another group")
    assert sums.asked == 2


async def test_nobody_waits_for_another_workers_answer(baselines: Baselines, sums: Sums, worker: Worker) -> None:
    sums.hold = asyncio.Event()
    first = asyncio.ensure_future(baselines.take_first(worker, "g"))
    await asyncio.sleep(0)
    await baselines.take_first(worker, "g")
    assert (first.done(), sums.asked) == (False, 1)
    sums.hold.set()
    await first


async def test_the_same_transformers_are_the_same_weights(baselines: Baselines, sums: Sums, worker: Worker) -> None:
    await baselines.take_first(worker, "g")
    sums.given = {"transformer": "t1", "vae": "changed"}
    assert await baselines.still_holds(worker, "g", BASE) is True
    sums.given = {"transformer": "t2", "vae": "v1"}
    assert await baselines.still_holds(worker, "g", BASE) is False


async def test_without_transformers_everything_counts(baselines: Baselines, sums: Sums, worker: Worker) -> None:
    sums.given = {"unet": "u1"}
    await baselines.take_first(worker, "g")
    assert await baselines.still_holds(worker, "g", BASE) is True
    sums.given = {"unet": "u2"}
    assert await baselines.still_holds(worker, "g", BASE) is False


async def test_what_nobody_knows_proves_nothing(baselines: Baselines, sums: Sums, worker: Worker) -> None:
    assert await baselines.still_holds(worker, "g", BASE) is None
    await baselines.take_first(worker, "g")
    sums.given = None
    assert await baselines.still_holds(worker, "g", BASE) is None
    worker.loaded = Unversioned.SUSPECT
    await baselines.take_first(worker, "h")
    assert await baselines.still_holds(worker, "h", Unversioned.SUSPECT) is None


async def test_a_check_waits_for_the_answer_that_is_on_its_way(
    baselines: Baselines, sums: Sums, worker: Worker
) -> None:
    sums.hold = asyncio.Event()
    first = asyncio.ensure_future(baselines.take_first(worker, "g"))
    await asyncio.sleep(0)
    check = asyncio.ensure_future(baselines.still_holds(worker, "g", BASE))
    await asyncio.sleep(0)
    sums.hold.set()
    await first
    assert await check is True


async def test_a_version_that_is_loaded_again_is_asked_again(baselines: Baselines, sums: Sums, worker: Worker) -> None:
    await baselines.take_new(worker, "g", "v1")
    baselines.forget("g", "v1")
    sums.given = {"transformer": "other"}
    await baselines.take_new(worker, "g", "v1")
    assert await baselines.still_holds(worker, "g", "v1") is True
    assert sums.asked == 3


async def test_old_versions_are_forgotten(baselines: Baselines, sums: Sums, worker: Worker) -> None:
    for n in range(VERSIONS_MAX + 1):
        await baselines.take_new(worker, "g", str(n))
    assert await baselines.still_holds(worker, "g", "0") is None
    assert await baselines.still_holds(worker, "g", "1") is True
