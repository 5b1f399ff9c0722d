"""Which worker work ranks first, whatever the load, the order of arrival and the process."""

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet import T2I, T2V, Asker, Fleet, worker_id
from core.policies.rooms import Rooms
from core.steps import put_to_sleep, succeed
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.policies.consistent_hash import favourite, weight
from sglang_diffusion_routing.core.ranking import HASHES_AT_ONCE
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.work import Needs, Result, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import NoRoutableWorker, QueueTimeout

pytestmark = pytest.mark.core

NAMES = "abcde"


def fleet(names: str = NAMES, cap: int = 1) -> Fleet:
    made = Fleet(SchedulerLimits(max_concurrency=cap, ramp=False), "consistent-hash")
    for name in names:
        made.add(name)
    return made


def digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def work(number: int, **asked: object) -> WorkSpec:
    return WorkSpec(digest=digest(number), **asked)  # type: ignore[arg-type]


def ranking(number: int, names: str = NAMES) -> list[str]:
    """Best first, by the formula that is documented."""
    return sorted(names, key=lambda name: hashlib.sha256(digest(number) + worker_id(name).encode()).digest())[::-1]


def test_the_formula_is_the_documented_one() -> None:
    assert weight(b"d", worker_id("a")) == hashlib.sha256(b"dhttp://a:30000").digest()
    assert favourite(digest(1), [worker_id(name) for name in NAMES]) == worker_id(ranking(1)[0])
    assert favourite(digest(1), []) is None


def test_work_goes_where_it_ranks_first_however_full_that_is() -> None:
    its = fleet(cap=2)
    for _ in range(2):
        assert its.ask(work(1)).got == ranking(1)[0]
    waiting = its.ask(work(1))
    assert waiting.waits
    assert its.ask(work(1, creates_job=True)).got == ranking(1)[0]


def test_it_holds_up_nobody() -> None:
    its = fleet()
    running = its.ask(work(1))
    waiting = its.ask(work(1))
    other = next(number for number in range(2, 99) if ranking(number)[0] != ranking(1)[0])
    assert its.ask(work(other)).got == ranking(other)[0]
    its.end(running)
    assert waiting.got == ranking(1)[0]


def test_work_is_spread_by_what_it_is() -> None:
    firsts = Counter(ranking(number)[0] for number in range(1_000))
    assert min(firsts.values()) > 150
    assert max(firsts.values()) < 250


def test_when_a_worker_goes_its_work_alone_goes_elsewhere_and_it_comes_back() -> None:
    its = fleet(cap=0)
    gone = ranking(1)[0]
    its.apply(ev.QuarantineRequested(worker_id(gone)))
    for number in range(50):
        assert its.ask(work(number)).got == next(name for name in ranking(number) if name != gone)
    its.apply(ev.QuarantineLifted(worker_id(gone)))
    its.answer(gone)
    assert [its.ask(work(number)).got for number in range(50)] == [ranking(number)[0] for number in range(50)]


def test_what_waits_moves_with_the_fleet() -> None:
    its = fleet("abc")
    running = [its.ask(WorkSpec(worker=worker_id(name))) for name in "abc"]
    waiting = [its.ask(work(number)) for number in range(30)]
    its.apply(ev.QuarantineRequested(worker_id("a")))
    its.add("d", max_concurrency=30)
    given = {number: asker.got for number, asker in enumerate(waiting) if not asker.waits}
    assert given == {number: "d" for number in range(30) if ranking(number, "bcd")[0] == "d"}
    for asker in running[1:]:
        its.end(asker)
    while any(asker.waits for asker in waiting):
        for asker in [asker for asker in waiting if asker.lease is not None and asker.lease.live]:
            its.end(asker)
    assert [asker.got for asker in waiting] == [ranking(number, "bcd")[0] for number in range(30)]


def test_a_worker_on_its_way_is_waited_for() -> None:
    its = fleet(cap=0)
    first = ranking(1)[0]
    its.apply(ev.RefitRequested(worker_id(first), "r", "v"))
    waiting = its.ask(work(1))
    assert waiting.waits
    its.apply(ev.CommandRefused(worker_id(first), its.worker(first).command_id or 0, "no", unchanged=True))
    assert waiting.got == first


def test_a_worker_that_falls_asleep_or_failed_the_work_is_not() -> None:
    its = fleet(cap=0)
    order = ranking(1)
    put_to_sleep(its, order[0])
    assert its.ask(work(1)).got == order[1]
    assert its.ask(work(1, avoid=frozenset({worker_id(order[1])}))).got == order[2]


def test_only_workers_that_can_do_it_are_ranked() -> None:
    its = fleet("ab", cap=0)
    its.add("c", T2V)
    for number in range(10):
        assert its.ask(work(number, needs=Needs.IMAGE)).got == ranking(number, "ab")[0]
        assert its.ask(work(number, needs=Needs.VIDEO)).got == "c"
    its.learn("c", T2I)
    assert [its.ask(work(n, needs=Needs.IMAGE)).got for n in range(10)] == [ranking(n, "abc")[0] for n in range(10)]


def test_only_workers_with_the_weights_that_are_demanded_are_ranked() -> None:
    its = fleet("ab", cap=0)
    step = Step(StepKind.DISK, "v1", "/update_weights_from_disk")
    its.apply(ev.RefitOpened(frozenset({"m"}), "r", "v1", Mode.ROLLING, step))
    its.apply(ev.RefitRequested(worker_id("b"), "r", "v1"))
    succeed(its, "b")
    assert {its.ask(work(number, min_version="v1")).got for number in range(10)} == {"b"}
    assert {its.ask(work(number)).got for number in range(10)} == {"a", "b"}


def test_a_pin_goes_before_it_and_a_group_too() -> None:
    its = fleet(cap=0)
    first, other = ranking(1)[0], ranking(1)[-1]
    assert its.ask(work(1, worker=worker_id(other))).got == other
    elsewhere = next(number for number in range(2, 99) if ranking(number)[0] != first)
    assert [its.ask(work(number, group="g")).got for number in (1, elsewhere)] == [first, first]
    assert its.ask(work(elsewhere)).got == ranking(elsewhere)[0]


def test_what_has_no_digest_and_what_is_spread_goes_by_load() -> None:
    its = fleet("ab", cap=0)
    assert sorted(its.ask(WorkSpec()).got for _ in range(4)) == ["a", "a", "b", "b"]
    assert sorted(its.ask(work(1, group="g", spread=True)).got for _ in range(4)) == ["a", "a", "b", "b"]
    rooms = Rooms("consistent-hash", random.Random(0))
    for name in "ab":
        rooms.enter(name)
    assert [rooms.choose() for _ in range(4)] == ["a", "b", "a", "b"]


def test_it_waits_to_its_deadline_and_is_refused_with_nobody_left() -> None:
    its = fleet("a")
    its.ask(work(1))
    late, left = its.ask(work(1, deadline_s=5.0)), its.ask(work(1))
    its.tick(5.0)
    assert isinstance(late.error, QueueTimeout)
    its.apply(ev.HoldRequested(worker_id("a")))
    assert isinstance(left.error, NoRoutableWorker)


def placed(names: str, numbers: list[int], cap: int, ends: list[int], noise: int) -> dict[int, str]:
    """Ask for all of this work, and say where each piece went.

    ends: pieces that end at once if they can, for the rest to come upon another load. noise: pieces without a digest.
    """
    its = fleet(names, cap)
    for _ in range(noise):
        its.ask()
    askers: dict[int, Asker] = {}
    for number in numbers:
        askers[number] = its.ask(work(number))
        if number in ends and not askers[number].waits:
            its.end(askers[number])
    while any(asker.waits for asker in askers.values()):
        live = [lease for name in NAMES for lease in its.scheduler.leases_of(worker_id(name))]
        assert live
        for lease in live:
            its.deliver(its.scheduler.release(lease, Result.OK, 200, its.now_s))
    return {number: asker.got for number, asker in askers.items()}


@given(
    order=st.permutations(range(12)),
    joined=st.permutations(NAMES),
    cap=st.integers(0, 3),
    ends=st.lists(st.integers(0, 11), max_size=12),
    noise=st.integers(0, 4),
)
def test_the_same_work_goes_to_the_same_workers_whatever_else_differs(
    order: list[int], joined: list[str], cap: int, ends: list[int], noise: int
) -> None:
    """Order of arrival, order of registration, caps, other load, and when what ends."""
    quiet = placed(NAMES, list(range(12)), 1, [], 0)
    assert placed("".join(joined), order, cap, ends, noise) == quiet == {n: ranking(n)[0] for n in range(12)}


class TestManyWait:
    """More than can be ranked in one turn, behind one running piece on each worker."""

    COUNT = HASHES_AT_ONCE + 100

    @pytest.fixture
    def its(self) -> Fleet:
        made = fleet("")
        made.ranks_at_once = False
        for name in "abc":
            made.add(name, T2V)
        self.running = [made.ask(WorkSpec(worker=worker_id(name))) for name in "abc"]
        return made

    @pytest.fixture
    def waiting(self, its: Fleet) -> list[Asker]:
        return [its.ask(work(number, needs=Needs.VIDEO)) for number in range(self.COUNT)]

    def first(self, asker: Asker) -> str:
        assert asker.ticket is not None
        assert asker.ticket.key.bound is not None
        return WorkerUrl.parse(asker.ticket.key.bound).host

    def rank(self, its: Fleet) -> int:
        turns = 0
        while its.scheduler.unranked:
            its.deliver(its.scheduler.rank_on(0.0))
            turns += 1
        return turns

    def test_they_are_ranked_in_several_turns(self, its: Fleet, waiting: list[Asker]) -> None:
        its.register("d")
        its.learn("d", T2V)
        its.answer("d")
        left = its.scheduler.unranked
        assert left == self.COUNT
        its.deliver(its.scheduler.rank_on(0.0))
        assert 0 < its.scheduler.unranked < left
        assert self.rank(its) > 1
        order = [ranking(number, "abcd")[0] for number in range(self.COUNT)]
        got = [name if asker.waits else asker.got for asker, name in zip(waiting, order, strict=True)]
        assert got == order
        assert [self.first(asker) for asker in waiting if asker.waits] == [
            name for asker, name in zip(waiting, order, strict=True) if asker.waits
        ]

    def test_work_of_a_worker_that_went_is_not_refused_before_it_is_ranked(
        self, its: Fleet, waiting: list[Asker]
    ) -> None:
        its.add("d", T2V)
        assert its.scheduler.unranked
        for name in "ab":
            its.apply(ev.RemovalRequested(worker_id(name), force=True))
        assert its.scheduler.unranked
        assert not any(asker.error for asker in waiting)
        self.rank(its)
        assert not any(asker.error for asker in waiting)
        assert {self.first(asker) for asker in waiting if asker.waits} == {"c", "d"}

    def test_with_the_last_worker_all_are_refused_at_their_turn(self, its: Fleet, waiting: list[Asker]) -> None:
        its.add("d", T2V, max_concurrency=1)
        for name in "abcd":
            its.apply(ev.RemovalRequested(worker_id(name), force=True))
        for asker in (*self.running, *waiting):
            if asker.lease is not None and asker.lease.live:
                its.end(asker, Result.DIED)
        self.rank(its)
        refused = [asker for asker in waiting if asker.lease is None]
        assert len(refused) >= self.COUNT - 1
        assert {type(asker.error) for asker in refused} == {NoRoutableWorker}
        assert its.scheduler.unranked == 0

    def test_who_leaves_or_is_given_a_worker_meanwhile_is_not_ranked(self, its: Fleet, waiting: list[Asker]) -> None:
        its.add("d", T2V)
        for asker in waiting:
            if asker.waits:
                assert asker.ticket is not None
                its.scheduler.abandon(asker.ticket)
        assert self.rank(its) == 1
