"""Which lane work goes to, and which lanes a worker serves."""

import random

import pytest

from core.fleet import T2I, T2V, Asker, url, worker_id
from sglang_diffusion_routing.core.lanes import Lanes
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Needs, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, Standing, Worker

pytestmark = pytest.mark.core

BOTH = Capability(("T2I", "T2V"), ("m", "v"), learned=True)


def empty() -> Lanes:
    return Lanes("least-request", random.Random(0))


def place(lanes: Lanes, name: str, capability: Capability, standing: Standing = Standing.ROUTABLE) -> Station:
    worker = Worker(worker_id(name), url(name), 1, registered_s=0.0, capability=capability)
    station = Station(worker)
    lanes.place(station, standing=standing, cap=2, is_open=standing is Standing.ROUTABLE)
    return station


def learn(lanes: Lanes, station: Station, capability: Capability) -> None:
    station.worker.capability = capability
    lanes.place(station, standing=station.standing, cap=2, is_open=station.open)


def test_a_fleet_of_equal_workers_has_one_lane() -> None:
    lanes = empty()
    for name in "abc":
        place(lanes, name, T2I)
    found = {id(lanes.find(needs, model)) for needs in (Needs.IMAGE, Needs.ANY) for model in (None, "other")}
    assert len(found) == len(lanes.all) == 1


def test_work_of_other_needs_has_a_lane_of_its_own_where_workers_differ() -> None:
    lanes = empty()
    image, video, both = place(lanes, "a", T2I), place(lanes, "b", T2V), place(lanes, "c", BOTH)
    members = {
        (needs, model): set(lanes.find(needs, model).free)
        for needs, model in [
            (Needs.IMAGE, None),
            (Needs.VIDEO, None),
            (Needs.ANY, None),
            (Needs.ANY, "m"),
            (Needs.ANY, "v"),
            (Needs.IMAGE, "v"),
        ]
    }
    assert members == {
        (Needs.IMAGE, None): {image, both},
        (Needs.VIDEO, None): {video, both},
        (Needs.ANY, None): {image, video, both},
        (Needs.ANY, "m"): {image, both},
        (Needs.ANY, "v"): {video, both},
        (Needs.IMAGE, "v"): {both},
    }


def test_models_that_nobody_serves_are_not_remembered() -> None:
    lanes = empty()
    place(lanes, "a", T2I)
    for number in range(100):
        lanes.find(Needs.ANY, f"made up {number}")
    assert list(lanes._routes) == [(Needs.ANY, None)]


@pytest.mark.parametrize(
    ("capabilities", "differ"),
    [
        ([], False),
        ([T2I, T2I], False),
        ([T2I, T2V], True),
        ([T2I, BOTH], True),
        ([T2I, Capability()], True),
        ([T2I, Capability(learned=True)], True),
        ([Capability(), Capability()], False),
        ([Capability(), Capability(learned=True)], False),
    ],
)
def test_models_differ_when_workers_serve_others_or_may(capabilities: list[Capability], *, differ: bool) -> None:
    lanes = empty()
    for number, capability in enumerate(capabilities):
        place(lanes, f"w{number}", capability)
    assert lanes.models_differ is differ


def test_capability_is_asked_of_the_registered_workers() -> None:
    def capable(*capabilities: Capability) -> list[bool]:
        lanes = empty()
        for number, capability in enumerate(capabilities):
            place(lanes, f"w{number}", capability, Standing.AWAY)
        return [lanes.capable(needs) for needs in (Needs.IMAGE, Needs.VIDEO, Needs.ANY)]

    assert capable() == [True, False, True]
    assert capable(T2I) == [True, False, True]
    assert capable(T2V) == [False, True, True]
    assert capable(Capability()) == [True, True, True]
    assert capable(Capability(learned=True)) == [True, False, True]
    assert capable(T2V, Capability()) == [True, True, True]
    assert capable(T2V, Capability((), learned=True)) == [False, True, True]


def test_a_lane_knows_how_many_are_worth_waiting_for() -> None:
    lanes = empty()
    for number, standing in enumerate(Standing):
        place(lanes, f"w{number}", T2I, standing)
    lane = lanes.find(Needs.IMAGE, None)
    assert (lane.hope, lane.free.size, len(lane.sleepers)) == (3, 1, 1)


def test_who_may_yet_prove_to_make_video_is_worth_waiting_for() -> None:
    lanes = empty()
    station = place(lanes, "a", Capability(), Standing.UNPROVEN)
    before = lanes.find(Needs.VIDEO, None)
    seen = [(before.hope, before.free.size)]
    station.standing = Standing.UNPROVEN
    learn(lanes, station, T2I)
    after = lanes.find(Needs.VIDEO, None)
    assert [*seen, (after.hope, after.free.size)] == [(1, 0), (0, 0)]


def test_waiting_work_moves_with_the_workers_that_can_do_it() -> None:
    lanes = empty()
    station = place(lanes, "a", T2I)
    spec = WorkSpec(Needs.ANY, model="v")
    tickets = [Ticket(spec, Asker(spec), 0.0, sequence) for sequence in (1, 2, 3)]
    for ticket in tickets:
        lanes.find(spec.needs, spec.model).lines.add(ticket)
    lanes.find(spec.needs, spec.model).lines.remove(tickets[1])
    place(lanes, "b", T2V)
    lane = lanes.find(spec.needs, spec.model)
    assert station not in set(lane.free)
    assert list(lane.lines) == [tickets[0], tickets[2]]
    assert lanes.tickets() == [tickets[0], tickets[2]]


def test_a_worker_that_leaves_leaves_its_lanes() -> None:
    lanes = empty()
    stays, leaves = place(lanes, "a", T2I), place(lanes, "b", T2I)
    lane = lanes.find(Needs.ANY, None)
    lanes.remove(leaves)
    assert (list(lane.free), lane.hope, leaves.lanes, leaves.hopes) == ([stays], 1, (), ())


def test_the_last_worker_of_its_kind_takes_its_model_with_it() -> None:
    lanes = empty()
    place(lanes, "a", T2I)
    video = place(lanes, "b", T2V)
    lanes.remove(video)
    assert lanes.find(Needs.ANY, "v") is lanes.find(Needs.ANY, None)
    assert not lanes.models_differ


def test_statuses_are_counted_among_those_who_may_do_the_work() -> None:
    lanes = empty()
    image = place(lanes, "a", T2I)
    place(lanes, "b", T2V)
    lane = lanes.find(Needs.IMAGE, None)
    assert lanes.by_status(lane) == {"joining": 1}
    image.worker.sleep_first = True
    lanes.touched()
    assert lanes.by_status(lanes.find(Needs.ANY, None)) == {"joining": 2}


def test_a_station_that_stands_where_it_should_need_not_move() -> None:
    lanes = empty()
    station = place(lanes, "a", T2I)
    assert lanes.belongs(station, standing=Standing.ROUTABLE, cap=2)
    assert not lanes.belongs(station, standing=Standing.ROUTABLE, cap=3)
    assert not lanes.belongs(station, standing=Standing.AWAY, cap=2)
    station.worker.capability = T2V
    assert not lanes.belongs(station, standing=Standing.ROUTABLE, cap=2)
