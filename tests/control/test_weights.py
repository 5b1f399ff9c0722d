import asyncio

import pytest

from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.turns import Turns
from sglang_diffusion_routing.control.weights import HISTORY_SHOWN, Weights
from sglang_diffusion_routing.core.events import (
    LabelsSet,
    QuarantineRequested,
    RefitClosed,
    RefitOpened,
    RefitRequested,
    WorkerRegistered,
)
from sglang_diffusion_routing.core.refit import Mode, StepKind, step_of
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import NoEligibleWorker
from sglang_diffusion_routing.schemas import GroupWeights
from support.engines import GROUP, Engines, refit, restart, settle
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core

EMPTY = {
    "target": None,
    "sequence": 0,
    "previous": None,
    "unproven": False,
    "open": None,
    "replayable": False,
    "obstacle": None,
    "checksums": None,
    "history": [],
    "workers": [],
}


class World:
    """Two workers of one group, and what clients see of their weights."""

    def __init__(self) -> None:
        self.fleet = RecordingFleet()
        self.api = Engines()
        self.turns = Turns()
        self.baselines = Baselines(self.fleet, self.api, call_limit_s=5.0)
        self.weights = Weights(self.fleet, self.baselines, self.turns)
        self.one, self.other = self.fleet.join("http://a:1"), self.fleet.join("http://b:1")

    def group(self, name: str = GROUP) -> GroupWeights:
        return self.weights.show().groups[name]

    def newcomer(self) -> Worker:
        """Register a worker that has not answered yet."""
        url = WorkerUrl.parse("http://new:1")
        self.fleet.apply(WorkerRegistered(url))
        return self.fleet.pool.workers[WorkerId(str(url))]

    def open_refit(self, mode: Mode) -> None:
        step = step_of(StepKind.DISK, "v2", "/update_weights_from_disk", body=b"{}")
        self.fleet.apply(RefitOpened(frozenset({GROUP}), "refit-9", "v2", mode, step))


@pytest.fixture
async def world() -> World:
    return World()


async def test_before_any_refit_a_group_has_its_workers_and_nothing_else(world: World) -> None:
    world.newcomer()
    shown = world.weights.show().model_dump()
    assert shown == {
        "groups": {
            GROUP: {
                **EMPTY,
                "workers": [
                    {"worker_url": f"http://{name}:1", "weight_version": "0", "status": "active", "reason": ""}
                    for name in ("a", "b")
                ],
            }
        },
        "ungrouped": [
            {
                "worker_url": "http://new:1",
                "weight_version": "0",
                "status": "joining",
                "reason": "",
            }
        ],
    }


async def test_a_group_shows_its_target_and_how_it_came_to_it(world: World) -> None:
    for version in ("v1", "v2", "v1"):
        refit(world.fleet, version, world.one, world.other)
    await world.baselines.learn(GROUP, "v1")
    restart(world.fleet, world.other)
    shown = world.group().model_dump()
    workers = shown.pop("workers")
    assert shown == {
        **{key: value for key, value in EMPTY.items() if key != "workers"},
        "target": "v1",
        "sequence": 3,
        "replayable": True,
        "checksums": {"transformer": "t1"},
        "history": [{"weight_version": "v1", "sequence": 3}, {"weight_version": "v2", "sequence": 2}],
    }
    assert workers[1] == {
        "worker_url": "http://b:1",
        "weight_version": None,
        "status": "updating",
        "reason": "it is brought to 'v1'",
    }


async def test_what_cannot_be_sent_again_says_why(world: World) -> None:
    refit(world.fleet, "v1", world.one, kind=StepKind.TENSOR)
    shown = world.group()
    assert (shown.replayable, shown.obstacle) == (
        False,
        "weights 'v1' came as tensors, which cannot be sent again",
    )
    assert shown.workers[1].reason == "it does not have 'v1'; weights 'v1' came as tensors, which cannot be sent again"


async def test_a_rolling_refit_shows_what_serves_meanwhile(world: World) -> None:
    world.open_refit(Mode.ROLLING)
    world.fleet.apply(RefitRequested(world.one.worker_id, "refit-9", "v2"))
    shown = world.group()
    assert shown.open is not None
    assert shown.open.model_dump() == {
        "id": "refit-9",
        "weight_version": "v2",
        "mode": "rolling",
        "admit_new": False,
    }
    assert shown.workers[0].status == "updating"


async def test_the_history_is_cut(world: World) -> None:
    for number in range(HISTORY_SHOWN + 2):
        refit(world.fleet, str(number), world.one)
    history = world.group().history
    assert (len(history), history[0].weight_version, history[0].sequence) == (HISTORY_SHOWN, "101", 102)


async def test_groups_are_shown_apart(world: World) -> None:
    world.fleet.apply(LabelsSet(world.other.worker_id, (("group", "x"),)))
    assert {name: [row.worker_url for row in group.workers] for name, group in world.weights.show().groups.items()} == {
        GROUP: ["http://a:1"],
        "x": ["http://b:1"],
    }


async def test_what_is_reported_is_believed(world: World) -> None:
    reply = await world.weights.report(None, "pushed-7")
    assert reply.model_dump(exclude_none=True) == {
        "results": [
            {"worker_url": f"http://{name}:1", "status_code": 200, "body": {"success": True}} for name in ("a", "b")
        ],
        "success": True,
        "skipped": [],
        "weight_version": "pushed-7",
    }
    assert [worker.loaded for worker in (world.one, world.other)] == ["pushed-7"] * 2
    await settle()
    shown = world.group()
    assert (shown.target, shown.open, shown.obstacle, shown.checksums) == (
        "pushed-7",
        None,
        "weights 'pushed-7' did not come through the router",
        {"transformer": "t1"},
    )
    assert world.api.asked == ["http://a:1"]


async def test_those_that_are_not_named_are_stale(world: World) -> None:
    await world.weights.report([world.other], "pushed-7")
    assert [worker.status.value for worker in (world.one, world.other)] == ["stale", "active"]


async def test_what_processes_began_with_can_be_reported_too(world: World) -> None:
    refit(world.fleet, "v1", world.one, world.other)
    await world.weights.report(None, "0")
    assert [worker.loaded for worker in (world.one, world.other)] == [Unversioned.BASE] * 2
    assert [worker.status.value for worker in (world.one, world.other)] == ["active"] * 2
    assert world.group().target is None


async def test_without_names_those_that_cannot_have_it_are_skipped(world: World) -> None:
    world.newcomer()
    world.fleet.apply(QuarantineRequested(world.other.worker_id))
    reply = await world.weights.report(None, "v7")
    assert [row.worker_url for row in reply.results] == ["http://a:1"]
    assert [(row.worker_url, row.reason) for row in reply.skipped] == [
        ("http://b:1", "quarantined"),
        ("http://new:1", "it has not said yet what it serves, so its weight group is not known"),
    ]
    # Whoever is named has it, whatever the router thinks of it.
    assert [row.worker_url for row in (await world.weights.report([world.other], "v8")).results] == ["http://b:1"]


async def test_a_worker_that_is_being_refit_is_not_believed_to_have_something_else(world: World) -> None:
    world.open_refit(Mode.DRAIN)
    world.fleet.apply(RefitRequested(world.one.worker_id, "refit-9", "v2"))
    world.fleet.apply(RefitClosed("refit-9"))
    reply = await world.weights.report([world.one, world.other], "v7")
    assert [row.worker_url for row in reply.results] == ["http://b:1"]
    assert [(row.worker_url, row.reason) for row in reply.skipped] == [("http://a:1", "http://a:1 is being refit")]
    with pytest.raises(NoEligibleWorker):
        await world.weights.report([world.one], "v8")
    assert world.group().target == "v7"


async def test_without_a_worker_nothing_is_reported(world: World) -> None:
    with pytest.raises(NoEligibleWorker):
        await world.weights.report([world.newcomer()], "v7")
    assert world.group().sequence == 0


async def test_a_report_waits_for_the_refit_of_its_group(world: World) -> None:
    async with world.turns.of({GROUP}):
        report = asyncio.ensure_future(world.weights.report(None, "v7"))
        await settle()
        assert (report.done(), world.group().target) == (False, None)
    assert (await report).weight_version == "v7"
