"""Who can do the same work, and what waits for them."""

import pytest

from core.fleet import T2I, T2V, url, worker_id
from sglang_diffusion_routing.core.lane import NOT_LEARNED, Lane, LaneKey, Profile, lane_key
from sglang_diffusion_routing.core.policies.least_request import LeastRequest
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Needs
from sglang_diffusion_routing.core.worker import Capability, Worker

pytestmark = pytest.mark.core

IMAGE, VIDEO = Profile.of(T2I), Profile.of(T2V)
SILENT = Profile.of(Capability(learned=True))
NOBODY = frozenset[object]()


class NoChance:
    def random(self) -> float:
        raise AssertionError("least-request leaves nothing to chance")


def station(name: str, cap: int, load: int = 0) -> Station:
    made = Station(Worker(worker_id(name), url(name), 1, registered_s=0.0))
    made.cap, made.load = cap, load
    return made


def lane(*stations: Station) -> Lane:
    made = Lane(LaneKey(frozenset(), frozenset()), LeastRequest(NoChance()))
    for one in stations:
        made.add(one)
    return made


@pytest.mark.parametrize(
    ("capability", "profile"),
    [
        (Capability(), Profile(True, False, False, frozenset())),
        (Capability(learned=True), Profile(True, False, True, frozenset())),
        (Capability((), ("m",), learned=True), Profile(False, False, True, frozenset({"m"}))),
        (Capability(("T2I",), learned=True), Profile(True, False, True, frozenset())),
        (Capability(("T2V",), learned=True), Profile(False, True, True, frozenset())),
        (Capability(("T2V", "T2I"), ("m", "n"), learned=True), Profile(True, True, True, frozenset({"n", "m"}))),
    ],
)
def test_a_worker_whose_tasks_are_unknown_takes_images_and_not_video(capability: Capability, profile: Profile) -> None:
    assert Profile.of(capability) == profile


@pytest.mark.parametrize(
    ("needs", "fits", "hopes"),
    [
        (Needs.IMAGE, {IMAGE, SILENT, NOT_LEARNED}, set()),
        (Needs.VIDEO, {VIDEO}, {NOT_LEARNED}),
        (Needs.ANY, {IMAGE, VIDEO, SILENT, NOT_LEARNED}, set()),
    ],
)
def test_work_goes_to_who_makes_it_and_waits_for_who_may_prove_to(
    needs: Needs, fits: set[Profile], hopes: set[Profile]
) -> None:
    profiles = {IMAGE, VIDEO, SILENT, NOT_LEARNED}
    assert lane_key(needs, None, profiles) == (fits, fits | hopes)


def test_a_model_restricts_only_where_a_capable_worker_serves_it() -> None:
    profiles = {IMAGE, VIDEO, SILENT, NOT_LEARNED}
    assert lane_key(Needs.ANY, "m", profiles) == ({IMAGE}, {IMAGE, NOT_LEARNED})
    assert lane_key(Needs.VIDEO, "m", profiles) == lane_key(Needs.VIDEO, None, profiles)
    assert lane_key(Needs.ANY, "unheard of", profiles) == lane_key(Needs.ANY, None, profiles)


def test_work_goes_to_who_has_room_and_a_job_to_the_least_loaded_full_or_not() -> None:
    roomy, full = station("a", cap=9, load=3), station("b", cap=1, load=1)
    both = lane(roomy, full)
    assert both.choose(NOBODY, creates_job=False) is roomy
    assert both.choose(NOBODY, creates_job=True) is full
    only_full = lane(full)
    assert only_full.choose(NOBODY, creates_job=False) is None
    assert only_full.choose(NOBODY, creates_job=True) is full


def test_of_two_with_the_same_load_a_job_goes_where_there_is_room() -> None:
    full, free = station("a", cap=1, load=1), station("b", cap=2, load=1)
    assert lane(full, free).choose(NOBODY, creates_job=True) is free


def test_who_is_to_be_avoided_is_not_chosen() -> None:
    a, b = station("a", cap=1), station("b", cap=1)
    both = lane(a, b)
    chosen = [
        both.choose(frozenset(avoid), creates_job=job)
        for avoid in ((), (worker_id("a"),), (worker_id("a"), worker_id("b")))
        for job in (False, True)
    ]
    assert chosen == [a, a, b, b, None, None]


def test_a_station_is_full_from_its_cap_on_and_free_below_it() -> None:
    one = station("a", cap=2)
    its = lane(one)
    seen = []
    for step in (1, 1, 1, -1, -1, -1):
        one.load += step
        (its.grew if step > 0 else its.shrank)(one)
        seen.append((its.free.size, its.full.size))
    assert seen == [(1, 0), (0, 1), (0, 1), (0, 1), (1, 0), (1, 0)]
    its.remove(one)
    assert (its.free.size, its.full.size) == (0, 0)


def test_turns_are_taken_among_equals() -> None:
    a, b, full = station("a", cap=1), station("b", cap=1), station("c", cap=0)
    its = lane(a, b, full)
    its.turn(a)
    its.turn(full)
    assert its.least(NOBODY) is b


def test_sleepers_take_turns_too() -> None:
    a, b = station("a", cap=1), station("b", cap=1)
    its = lane()
    its.sleepers.update(dict.fromkeys((a, b)))
    its.turn(a)
    assert [its.sleeper(NOBODY), its.sleeper(frozenset({worker_id("b")}))] == [b, a]
    assert its.sleeper(frozenset({worker_id("a"), worker_id("b")})) is None


@pytest.mark.parametrize(
    ("load", "avoided", "creates_job", "can"),
    [
        (0, False, False, True),
        (1, False, False, False),
        (1, False, True, True),
        (0, True, False, False),
        (0, True, True, False),
    ],
)
def test_a_line_can_be_served_when_its_first_ticket_can_be_granted(
    load: int, avoided: bool, creates_job: bool, can: bool
) -> None:
    its = lane(station("a", cap=1, load=load))
    avoid = frozenset({worker_id("a")}) if avoided else frozenset()
    assert its.can_grant(avoid, creates_job=creates_job) is can
