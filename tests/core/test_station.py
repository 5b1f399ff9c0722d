"""Stations by load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet import url, worker_id
from sglang_diffusion_routing.core.station import LoadBuckets, Look, Station
from sglang_diffusion_routing.core.work import Lease, WorkSpec
from sglang_diffusion_routing.core.worker import Worker

pytestmark = pytest.mark.core


def station(name: str, load: int = 0) -> Station:
    made = Station(Worker(worker_id(name), url(name), 1, registered_s=0.0))
    made.load = load
    return made


def test_the_least_loaded_comes_first_and_of_those_who_has_stood_there_longest() -> None:
    buckets = LoadBuckets()
    a, b, c = station("a", 1), station("b"), station("c")
    for one in (a, b, c):
        buckets.add(one)
    assert (buckets.first(), list(buckets), buckets.size) == (b, [b, c, a], 3)
    b.load = 1
    buckets.risen(b)
    assert list(buckets) == [c, a, b]
    a.load = 0
    buckets.fallen(a)
    assert list(buckets) == [c, a, b]
    buckets.turn(c)
    assert list(buckets) == [a, c, b]


def test_the_next_load_is_found_across_a_gap() -> None:
    buckets = LoadBuckets()
    light, heavy = station("a"), station("b", 1_000)
    buckets.add(heavy)
    buckets.add(light)
    buckets.discard(light, 0)
    assert buckets.first() is heavy
    buckets.discard(heavy, 1_000)
    assert (buckets.size, list(buckets)) == (0, [])
    buckets.add(heavy)
    assert buckets.first() is heavy


STEPS = st.lists(st.tuples(st.sampled_from(["add", "discard", "rise", "fall", "turn"]), st.integers(0, 4)))


@given(STEPS)
def test_it_is_a_list_sorted_by_load_and_then_by_arrival(steps: list[tuple[str, int]]) -> None:
    stations = [station(f"w{n}") for n in range(5)]
    buckets = LoadBuckets()
    arrived: dict[Station, int] = {}
    for arrival, (step, which) in enumerate(steps):
        one = stations[which]
        if step == "add" and one not in arrived:
            buckets.add(one)
        elif step == "discard" and one in arrived:
            buckets.discard(one, one.load)
            del arrived[one]
            continue
        elif step == "rise":
            one.load += 1
            if one in arrived:
                buckets.risen(one)
        elif step == "fall" and one.load:
            one.load -= 1
            if one in arrived:
                buckets.fallen(one)
        elif step == "turn" and one in arrived:
            buckets.turn(one)
        else:
            continue
        if step == "add" or one in arrived:
            arrived[one] = arrival
        expected = sorted(arrived, key=lambda one: (one.load, arrived[one]))
        assert list(buckets) == expected
        assert buckets.size == len(expected)
        assert not expected or buckets.first() is expected[0]
        sampled = {
            load: [one for one in expected if one.load == load] for load in dict.fromkeys(o.load for o in expected)
        }
        assert list(buckets.sample(Look(2, 3))) == [one for alike in sampled.values() for one in alike[:2]][:3]


def busy(*pieces: tuple[float, float], speed: float = 1.0, done_s: float = 0.0, skips: bool = False) -> Station:
    """A station with pieces of work: (cost, instant of the grant)."""
    made = station("a")
    made.speed.learn(speed, 1.0)
    made.done_s = done_s
    for number, (cost, granted_s) in enumerate(pieces):
        spec = WorkSpec(cost_mpx_steps=cost, skips_queue=skips and not number)
        made.take(Lease(number, made.worker, spec, granted_s, 0.0))
    return made


@pytest.mark.parametrize(
    ("one", "now_s", "backlog"),
    [
        (busy(), 5.0, 0.0),
        (busy((10.0, 0.0)), 4.0, 6.0),
        (busy((10.0, 0.0)), 40.0, 0.0),
        (busy((10.0, 0.0), speed=2.0), 4.0, 2.0),
        (busy((10.0, 0.0), (10.0, 0.0)), 40.0, 10.0),
        (busy((10.0, 0.0), done_s=3.0), 4.0, 9.0),
        (busy((5.0, 0.0), (10.0, 0.0), skips=True), 4.0, 10.0),
    ],
)
def test_what_is_left_is_all_work_less_what_of_the_first_must_be_done(
    one: Station, now_s: float, backlog: float
) -> None:
    assert one.backlog(now_s) == pytest.approx(backlog)


def test_further_work_is_finished_behind_what_is_left() -> None:
    assert busy((10.0, 0.0), speed=2.0).finishes_in_s(4.0, now_s=4.0) == pytest.approx(3.0)
    assert busy(speed=2.0).finishes_in_s(4.0, now_s=4.0) == pytest.approx(2.0)


@given(data=st.data())
def test_what_is_left_is_known_through_any_ends_of_work(data: st.DataObject) -> None:
    made, now_s = station("a"), 0.0
    made.speed.learn(2.0, 1.0)
    live: dict[int, Lease] = {}
    for number in range(data.draw(st.integers(1, 12))):
        now_s += data.draw(st.sampled_from([0.0, 0.5, 4.0]))
        if live and data.draw(st.booleans()):
            ended = live.pop(data.draw(st.sampled_from(sorted(live))))
            if not ended.spec.skips_queue and data.draw(st.booleans()):
                made.done_s = now_s
            made.drop(ended)
        else:
            spec = WorkSpec(cost_mpx_steps=data.draw(st.sampled_from([1.0, 6.0])), skips_queue=data.draw(st.booleans()))
            live[number] = Lease(number, made.worker, spec, now_s, 0.0)
            made.take(live[number])
        counted = [lease for lease in live.values() if not lease.spec.skips_queue]
        left = sum(lease.spec.cost_mpx_steps for lease in counted)
        if counted and (first := next(iter(live.values()))) is counted[0]:
            since_s = max(first.granted_s, made.done_s)
            left -= min(2.0 * (now_s + 1.0 - since_s), first.spec.cost_mpx_steps)
        assert (made.load, list(made.leases)) == (len(counted), list(live))
        assert made.backlog(now_s + 1.0) == pytest.approx(left)
