import asyncio

import pytest

from sglang_diffusion_routing.control.checksums import ADAPTERS, ASKED_MAX, Baselines
from sglang_diffusion_routing.core.events import ChecksumsRead, RefitRequested, WorkerRestarted
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.weights import Unversioned
from support.engines import Engines, refit, settle
from support.fleet import RecordingFleet
from support.running import eventually

pytestmark = pytest.mark.core
BASE = Unversioned.BASE


@pytest.fixture
def api() -> Engines:
    return Engines()


@pytest.fixture
async def fleet() -> RecordingFleet:
    return RecordingFleet()


@pytest.fixture
def baselines(fleet: RecordingFleet, api: Engines) -> Baselines:
    return Baselines(fleet, api, call_limit_s=5.0)


async def test_one_worker_is_asked_for_what_many_have(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    for number in range(3):
        await baselines.take_first(fleet.join(f"http://w:{number + 1}"), "m")
    assert api.asked == ["http://w:1"]
    assert fleet.pool.ledger.expected("m", BASE) == {"transformer": "t1"}


async def test_nobody_waits_for_another_workers_answer(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    one, other = fleet.join("http://w:1"), fleet.join("http://w:2")
    api.hold = asyncio.Event()
    first = asyncio.ensure_future(baselines.take_first(one, "m"))
    await settle()
    await baselines.take_first(other, "m")
    assert (first.done(), api.asked) == (False, ["http://w:1"])
    api.hold.set()
    await first


async def test_the_same_transformers_are_the_same_weights(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    worker = fleet.join("http://w:1")
    await baselines.take_first(worker, "m")
    api.usual = {"transformer": "t1", "vae": "changed"}
    assert await baselines.still_holds(worker, "m", BASE) is True
    api.usual = {"transformer": "t2", "vae": "v1"}
    assert await baselines.still_holds(worker, "m", BASE) is False


async def test_without_transformers_everything_counts(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    worker = fleet.join("http://w:1")
    api.usual = {"unet": "u1", "vae": "v1"}
    await baselines.take_first(worker, "m")
    api.usual = {"unet": "u1", "vae": "v2"}
    assert await baselines.still_holds(worker, "m", BASE) is False


async def test_adapters_that_no_checksum_shows_count_as_one(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    worker = fleet.join("http://w:1")
    plain = await baselines.read(worker)
    api.loras = {"http://w:1": '{"transformer":[{"strength":1.0}]}'}
    strong = await baselines.read(worker)
    api.loras = {"http://w:1": '{"transformer":[{"strength":0.5}]}'}
    weak = await baselines.read(worker)
    assert plain == {"transformer": "t1"}
    assert (strong is not None and set(strong), weak is not None and set(weak)) == ({"transformer", ADAPTERS},) * 2
    assert strong != weak
    api.loras = {"http://w:1": None}
    assert await baselines.read(worker) is None


async def test_what_nobody_knows_proves_nothing(fleet: RecordingFleet, baselines: Baselines, api: Engines) -> None:
    worker = fleet.join("http://w:1")
    assert await baselines.still_holds(worker, "m", BASE) is None
    await baselines.take_first(worker, "m")
    for unsaid in (None, {}):
        api.usual = unsaid
        assert await baselines.still_holds(worker, "m", BASE) is None


async def test_a_worker_without_the_route_leaves_no_baseline(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    api.usual = {}
    await baselines.take_first(fleet.join("http://w:1"), "m")
    assert fleet.pool.ledger.expected("m", BASE) is None


async def test_a_worker_of_which_nothing_is_known_is_not_asked(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    fleet.join("http://w:2")
    worker = fleet.join("http://w:1")
    fleet.apply(WorkerRestarted(worker.worker_id, worker.incarnation))
    assert worker.loaded is Unversioned.UNCHECKED
    await baselines.take_first(worker, "m")
    assert api.asked == []


async def test_new_weights_are_read_in_the_background(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    one, other = fleet.join("http://w:1"), fleet.join("http://w:2")
    api.hold = asyncio.Event()
    baselines.take_new(one, "m", "v1")
    refit(fleet, "v1", one)
    baselines.take_new(other, "m", "v1")
    check = asyncio.ensure_future(baselines.expected("m", "v1"))
    await settle()
    assert (api.asked, check.done()) == (["http://w:1"], False)
    api.hold.set()
    assert await check == {"transformer": "t1"}


async def test_a_version_that_is_loaded_again_is_asked_again(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    worker = fleet.join("http://w:1")
    for number in (1, 2):
        api.usual = {"transformer": f"t{number}"}
        baselines.take_new(worker, "m", "v1")
        refit(fleet, "v1", worker)
        assert await baselines.expected("m", "v1") == {"transformer": f"t{number}"}


async def test_an_answer_from_before_another_change_is_dropped(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    worker = fleet.join("http://w:1")
    api.hold = asyncio.Event()
    baselines.take_new(worker, "m", "v1")
    refit(fleet, "v1", worker)
    await settle()
    fleet.apply(WorkerRestarted(worker.worker_id, worker.incarnation))
    api.hold.set()
    assert await baselines.expected("m", "v1") is None


@pytest.mark.parametrize("in_time", [True, False])
async def test_a_worker_that_is_being_asked_answers_before_it_is_updated(
    fleet: RecordingFleet, api: Engines, in_time: bool
) -> None:
    baselines = Baselines(fleet, api, call_limit_s=5.0 if in_time else 0.01)
    worker = fleet.join("http://w:1")
    api.hold = asyncio.Event()
    baselines.take_new(worker, "m", "v1")
    refit(fleet, "v1", worker)
    await settle()
    fleet.apply(RefitRequested(worker.worker_id, "next", "v2"))
    assert worker.state is WorkerState.UPDATING
    first = asyncio.ensure_future(baselines.take_first(worker, "m"))
    if not in_time:
        await first
    await settle()
    assert first.done() is not in_time
    api.hold.set()
    await first
    await settle()
    assert api.asked == ["http://w:1"]
    assert fleet.pool.ledger.expected("m", "v1") == ({"transformer": "t1"} if in_time else None)


async def test_another_worker_is_asked_where_the_first_does_not_answer(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    one, other = fleet.join("http://w:1"), fleet.join("http://w:2")
    api.sums["http://w:1"] = None
    baselines.take_new(one, "m", "v1")
    refit(fleet, "v1", one, other)
    assert await baselines.expected("m", "v1") == {"transformer": "t1"}
    assert api.asked == ["http://w:1", "http://w:2"]


async def test_a_worker_that_is_updated_again_at_once_is_not_asked(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    one, other = fleet.join("http://w:1"), fleet.join("http://w:2")
    baselines.take_new(one, "m", "v1")
    refit(fleet, "v1", one, other)
    fleet.apply(RefitRequested(one.worker_id, "next", "v2"))
    assert await baselines.expected("m", "v1") == {"transformer": "t1"}
    assert api.asked == ["http://w:2"]


async def test_workers_that_have_it_are_asked_when_it_is_needed(
    fleet: RecordingFleet, baselines: Baselines, api: Engines
) -> None:
    assert await baselines.learn("m", BASE) is None
    api.usual = None
    for number in range(ASKED_MAX + 1):
        fleet.join(f"http://w:{number + 1}")
    assert await baselines.learn("m", BASE) is None
    assert len(api.asked) == ASKED_MAX
    api.usual = {"transformer": "t1"}
    assert await baselines.learn("m", BASE) == {"transformer": "t1"}
    assert await baselines.learn("m", BASE) == {"transformer": "t1"}
    assert len(api.asked) == ASKED_MAX + 1


async def test_closing_ends_what_nobody_waits_for(fleet: RecordingFleet, baselines: Baselines, api: Engines) -> None:
    worker = fleet.join("http://w:1")
    api.hold = asyncio.Event()
    baselines.take_new(worker, "m", "v1")
    refit(fleet, "v1", worker)
    await settle()
    await baselines.aclose()

    async def others() -> int:
        return len(asyncio.all_tasks()) - 1

    await eventually(others, lambda count: count == 0)
    assert not [event for event in fleet.events if isinstance(event, ChecksumsRead)]
