"""What there is to wait for, and what is said when there is nothing."""

import pytest

from core.fleet import T2I, T2V, Asker, Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.demands import Demands
from sglang_diffusion_routing.core.lanes import Lanes
from sglang_diffusion_routing.core.prospects import Prospects
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.work import LineKey, Needs, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerId, standing
from sglang_diffusion_routing.errors import (
    NoCapableWorker,
    NoRoutableWorker,
    QueueTimeout,
    WeightsUnmet,
    WorkerUnavailable,
)

pytestmark = pytest.mark.core


class Scene:
    """Prospects over the workers of a fleet, each of which is seated as it stands."""

    def __init__(self, fleet: Fleet) -> None:
        self.lanes = Lanes("least-request", NoChance())
        stations: dict[WorkerId, Station] = {}
        for worker in fleet.pool.workers.values():
            station = stations[worker.worker_id] = Station(worker)
            stands = standing(worker)
            self.lanes.place(station, standing=stands, cap=1, is_open=worker.state.value == "active")
        self.prospects = Prospects(self.lanes, stations, Demands(Ledger(), stations))

    def overdue(self, spec: WorkSpec, now_s: float) -> type[Exception] | None:
        ticket = Ticket(spec, Asker(spec), 0.0, 1)
        error = self.prospects.overdue(self.lanes.find(spec.needs, spec.model), ticket, now_s)
        return None if error is None else type(error)


class NoChance:
    def random(self) -> float:
        raise AssertionError("least-request leaves nothing to chance")


def test_hope_is_for_those_that_are_not_to_be_avoided() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.add("b")
    fleet.apply(ev.HoldRequested(worker_id("b")))
    scene = Scene(fleet)
    lane = scene.lanes.find(Needs.ANY, None)
    avoided = [frozenset(), {worker_id("a")}, {worker_id("b")}, {worker_id("gone")}]
    hopes = [scene.prospects.has_hope(lane, LineKey(frozenset(avoid))) for avoid in avoided]
    assert hopes == [True, False, True, True]


def test_what_nobody_makes_is_told_from_what_nobody_can_do_now() -> None:
    fleet = Fleet()
    fleet.add("a", T2I)
    scene = Scene(fleet)
    seen = {
        needs: type(scene.prospects.in_vain(scene.lanes.find(needs, None), WorkSpec(needs)))
        for needs in (Needs.IMAGE, Needs.VIDEO)
    }
    assert seen == {Needs.IMAGE: NoRoutableWorker, Needs.VIDEO: NoCapableWorker}


def test_a_wait_is_over_at_its_deadline_or_without_the_weights_that_it_needs() -> None:
    fleet = Fleet()
    fleet.add("a", T2I)
    fleet.add("b", T2V)
    scene = Scene(fleet)
    seen = [
        scene.overdue(spec, 5.0)
        for spec in (
            WorkSpec(),
            WorkSpec(deadline_s=5.1),
            WorkSpec(deadline_s=5.0),
            WorkSpec(min_version="0"),
            WorkSpec(min_version="0", deadline_s=5.0),
            WorkSpec(min_version="v1"),
            WorkSpec(min_version="v1", deadline_s=5.0),
            WorkSpec(Needs.VIDEO, min_version="0", avoid=frozenset({worker_id("b")})),
        )
    ]
    assert seen == [None, None, QueueTimeout, None, QueueTimeout, WeightsUnmet, WeightsUnmet, WeightsUnmet]


def test_work_for_one_worker_hopes_for_that_one_alone() -> None:
    fleet = Fleet()
    for name in "abc":
        fleet.add(name)
    fleet.apply(ev.HoldRequested(worker_id("b")))
    scene = Scene(fleet)
    lane = scene.lanes.find(Needs.ANY, None)
    pins = [WorkSpec(worker=worker_id(name)) for name in ("a", "b", "gone")]
    failed = WorkSpec(worker=worker_id("a"), avoid=frozenset({worker_id("a")}))
    assert [scene.prospects.has_hope(lane, LineKey.of(spec)) for spec in [*pins, failed]] == [True, False, False, False]
    errors = [scene.prospects.in_vain(lane, spec) for spec in pins[1:]]
    assert [(type(error), error.facts) for error in errors] == [
        (WorkerUnavailable, {"worker": "http://b:30000", "status": "draining"}),
        (WorkerUnavailable, {"worker": worker_id("gone"), "status": "removed"}),
    ]


def test_work_for_one_worker_is_told_how_that_one_is() -> None:
    fleet = Fleet()
    fleet.add("a")
    scene = Scene(fleet)
    lane = scene.lanes.find(Needs.ANY, None)
    spec = WorkSpec(worker=worker_id("a"), deadline_s=5.0)
    error = scene.prospects.overdue(lane, Ticket(spec, Asker(spec), 0.0, 1), 5.0)
    assert isinstance(error, QueueTimeout)
    assert error.facts == {"waited_s": 5.0, "by_status": {"active": 1}, "worker": "http://a:30000"}
    assert str(error) == "http://a:30000, which is active, did not come free within 5 s"
