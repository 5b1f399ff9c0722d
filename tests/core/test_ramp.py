"""Workers that are new or back prove themselves before they get much."""

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.fleet import T2I, Asker, Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.policies import POLICIES
from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.work import Result, WorkSpec
from sglang_diffusion_routing.core.worker import Watch

pytestmark = pytest.mark.core

A, B = worker_id("a"), worker_id("b")
JOB = WorkSpec(creates_job=True)
NAMES = st.sampled_from("abcd")
WIDE = SchedulerLimits(max_concurrency=8)


def ramp(fleet: Fleet, name: str) -> int | None:
    return fleet.scheduler.ramp_of(worker_id(name))


def given(fleet: Fleet, name: str, pieces: int = 40) -> list[Asker]:
    """Ask for much; give what a worker gets of it."""
    asked = [fleet.ask() for _ in range(pieces)]
    return [asker for asker in asked if asker.lease is not None and asker.got == name]


def prove(fleet: Fleet, name: str, pieces: int = 6) -> None:
    """A worker does so many pieces well that it is trusted with its cap, whatever that is."""
    for _ in range(pieces):
        fleet.end(fleet.ask(WorkSpec(worker=worker_id(name))))


def proven(*names: str, limits: SchedulerLimits = WIDE, policy: str = "least-request") -> Fleet:
    """A fleet of workers that have no ramp any more."""
    fleet = Fleet(limits, policy)
    for name in names:
        fleet.add(name)
    for name in names:
        prove(fleet, name)
    assert [ramp(fleet, name) for name in names] == [None] * len(names)
    return fleet


def in_flight(fleet: Fleet, name: str) -> int:
    return fleet.scheduler.in_flight(worker_id(name))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_new_worker_gets_one_piece_and_twice_as_much_after_each_that_it_did_well(policy: str) -> None:
    fleet = proven("a", policy=policy)
    fleet.add("b")
    assert (ramp(fleet, "a"), ramp(fleet, "b")) == (None, 1)
    asked = [fleet.ask() for _ in range(40)]
    held = []
    for _ in range(4):
        held.append(in_flight(fleet, "b"))
        fleet.now_s += 1.0
        fleet.end(next(asker for asker in asked if asker.lease and asker.lease.live and asker.got == "b"))
    assert held == [1, 2, 4, 8]
    assert ramp(fleet, "b") is None
    assert (in_flight(fleet, "a"), in_flight(fleet, "b")) == (8, 8)


def test_a_worker_without_a_cap_reaches_none_after_seven_pieces() -> None:
    fleet = proven("a", limits=SchedulerLimits(max_concurrency=0), policy="least-request")
    fleet.add("b")
    steps: list[int | None] = []
    for _ in range(6):
        steps.append(ramp(fleet, "b"))
        fleet.end(fleet.ask(WorkSpec(worker=B)))
    assert (steps, ramp(fleet, "b")) == ([1, 2, 4, 8, 16, 32], None)
    asked = given(fleet, "b", pieces=400)
    assert len(asked) == 200


@pytest.mark.parametrize(
    "result", [Result.SERVER_ERROR, Result.CONNECT_FAILED, Result.DIED, Result.SCHEDULER_DIED], ids=lambda r: r.name
)
def test_a_failure_halves_what_a_worker_gets_and_one_piece_is_left(result: Result) -> None:
    fleet = proven("a")
    fleet.add("b")
    prove(fleet, "b", pieces=2)
    assert ramp(fleet, "b") == 4
    seen = []
    for _ in range(3):
        asker = fleet.ask(WorkSpec(worker=B))
        fleet.end(asker, result, 503 if result is Result.SERVER_ERROR else 0)
        seen.append(ramp(fleet, "b"))
    assert seen == [2, 1, 1]
    assert len(given(fleet, "b")) == 1


def test_what_says_nothing_of_a_worker_changes_nothing() -> None:
    fleet = proven("a")
    fleet.add("b")
    prove(fleet, "b", pieces=1)
    fleet.end(fleet.ask(WorkSpec(worker=B)), Result.OK, 404)
    fleet.end(fleet.ask(WorkSpec(worker=B)), Result.ABANDONED, 0)
    fleet.end(fleet.ask(WorkSpec(worker=B, skips_queue=True)), Result.OK, 200)
    assert ramp(fleet, "b") == 2
    job = fleet.ask(replace(JOB, worker=B))
    fleet.end(job, Result.OK, 200)
    assert ramp(fleet, "b") == 2, "a job that came to nothing"
    job = fleet.ask(replace(JOB, worker=B))
    assert job.lease is not None
    job.lease.done_s = fleet.now_s
    fleet.end(job, Result.OK, 0)
    assert ramp(fleet, "b") == 4


def test_a_fleet_that_starts_is_not_held_back() -> None:
    fleet = Fleet(WIDE)
    for name in "abcd":
        fleet.add(name)
    asked = [fleet.ask() for _ in range(32)]
    assert [in_flight(fleet, name) for name in "abcd"] == [8, 8, 8, 8]
    assert [ramp(fleet, name) for name in "abcd"] == [None] * 4
    fleet.end(next(asker for asker in asked if asker.got == "a"), Result.OK, 200)
    assert in_flight(fleet, "a") == 7
    assert fleet.ask().got == "a"


@pytest.mark.parametrize("spec", [WorkSpec(), JOB], ids=["requests", "jobs"])
def test_whoever_is_the_first_of_a_new_fleet_to_finish_something_gets_no_more_for_it(spec: WorkSpec) -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=0))
    for name in "abcd":
        fleet.add(name)
    for name in "ab":
        prove(fleet, name)
    for _ in range(40):
        fleet.ask(spec)
    assert [in_flight(fleet, name) for name in "abcd"] == [10] * 4


def test_ramps_hold_while_at_least_half_of_the_fleet_has_none() -> None:
    fleet = proven("a")
    fleet.add("b")
    assert ramp(fleet, "b") == 1
    fleet.add("c")
    assert (ramp(fleet, "b"), ramp(fleet, "c")) == (None, None), "most of the fleet is new"
    assert len(given(fleet, "b", pieces=24)) == 8


def running(fleet: Fleet, name: str) -> list[Asker]:
    """What a worker has now, as askers whose work can be ended."""
    askers = []
    for lease in fleet.scheduler.leases_of(worker_id(name)):
        asker = Asker(lease.spec)
        asker.lease = lease
        askers.append(asker)
    return askers


def test_a_ramp_that_holds_again_takes_no_work_back_but_gives_none() -> None:
    fleet = proven("a")
    fleet.add("b")
    fleet.add("c")
    for _ in range(24):
        fleet.ask()
    for asker in running(fleet, "c")[:3]:
        fleet.end(asker)
    assert ramp(fleet, "b") == 1, "half of the fleet has proven itself"
    assert in_flight(fleet, "b") == 8
    fleet.end(running(fleet, "b")[0], Result.ABANDONED, 0)
    fleet.end(running(fleet, "a")[0])
    assert sorted(fleet.ask().got for _ in range(4)) == ["a", "c", "c", "c"]
    assert fleet.ask().waits


def test_a_worker_of_another_kind_proves_nothing() -> None:
    fleet = proven("a")
    fleet.add("v", replace(T2I, task_types=("T2V",)))
    assert ramp(fleet, "v") is None
    fleet.add("b")
    assert ramp(fleet, "b") == 1


def test_a_worker_that_answers_before_it_says_what_it_makes_has_a_ramp_too() -> None:
    fleet = proven("a")
    fleet.register("b")
    fleet.answer("b")
    fleet.learn("b")
    assert ramp(fleet, "b") == 1


def comes_back(fleet: Fleet, how: str) -> None:
    incarnation = fleet.worker("b").incarnation
    match how:
        case "quarantined":
            for _ in range(3):
                fleet.apply(ev.ProbeFailed(B, incarnation, ProbeFailure.BAD_ANSWER, 0))
            fleet.answer("b")
        case "taken out by an operator":
            fleet.apply(ev.QuarantineRequested(B))
            fleet.apply(ev.QuarantineLifted(B))
            fleet.answer("b")
        case "restarted":
            fleet.apply(ev.WorkerRestarted(B, incarnation))
            fleet.learn("b")
            fleet.answer("b")
        case "removed and registered":
            fleet.apply(ev.RemovalRequested(B))
            fleet.add("b")
        case "silent connection lost":
            fleet.opens_sentinels = False
            fleet.apply(ev.SentinelLost(B, incarnation, 0))
            fleet.answer("b")
            fleet.apply(ev.SentinelOpened(B, incarnation))
        case "refused once, unwatched":
            fleet.opens_sentinels = False
            fleet.apply(ev.SentinelLost(B, incarnation, 1))
            fleet.apply(ev.WorkFailed(B, incarnation, ProbeFailure.REFUSED))
            assert fleet.worker("b").health is Health.HEALTHY
            fleet.answer("b")
            fleet.apply(ev.SentinelOpened(B, incarnation))


@pytest.mark.parametrize(
    "how",
    [
        "quarantined",
        "taken out by an operator",
        "restarted",
        "removed and registered",
        "silent connection lost",
        "refused once, unwatched",
    ],
)
def test_a_worker_that_was_out_or_may_be_another_one_starts_over(how: str) -> None:
    fleet = proven("a", "b")
    comes_back(fleet, how)
    settle(fleet)
    assert fleet.scheduler.ramp_of(B) == 1
    assert len(given(fleet, "b")) == 1


def settle(fleet: Fleet, name: str = "b") -> None:
    """What the worker is told to do succeeds."""
    worker = fleet.worker(name)
    while worker.command_id is not None:
        fleet.apply(ev.CommandSucceeded(worker.worker_id, worker.command_id))


def test_sleep_costs_no_ramp() -> None:
    fleet = proven("a", "b")
    fleet.apply(ev.SleepRequested(B))
    settle(fleet)
    fleet.apply(ev.WakeRequested(B))
    settle(fleet)
    assert (ramp(fleet, "b"), len(given(fleet, "b"))) == (None, 8)


def test_a_refit_costs_no_ramp() -> None:
    fleet = proven("a", "b")
    for name in "ab":
        fleet.apply(ev.RefitRequested(worker_id(name), "refit-1", "v1"))
        settle(fleet, name)
    assert (fleet.worker("b").loaded, ramp(fleet, "b"), len(given(fleet, "b"))) == ("v1", None, 8)


def test_a_cut_of_the_silent_connection_costs_no_ramp() -> None:
    fleet = proven("a", "b")
    incarnation = fleet.worker("b").incarnation
    fleet.opens_sentinels = False
    fleet.apply(ev.SentinelEnded(B, incarnation))
    fleet.apply(ev.SentinelLost(B, incarnation, 1))
    fleet.answer("b")
    fleet.apply(ev.SentinelOpened(B, incarnation))
    assert (fleet.worker("b").watch, ramp(fleet, "b"), len(given(fleet, "b"))) == (Watch.STANDS, None, 8)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_job_goes_beyond_a_ramp_only_if_nobody_else_may_have_it(policy: str) -> None:
    fleet = proven("a", policy=policy)
    fleet.add("b")
    jobs = [fleet.ask(JOB) for _ in range(20)]
    assert (in_flight(fleet, "a"), in_flight(fleet, "b")) == (19, 1)
    assert fleet.ask(replace(JOB, avoid=frozenset({A}))).got == "b"
    job = next(job for job in jobs if job.got == "b")
    assert job.lease is not None
    job.lease.done_s = fleet.now_s + 1.0
    fleet.now_s += 1.0
    fleet.end(job, Result.OK, 0)
    assert ramp(fleet, "b") == 2
    assert [fleet.ask(JOB).got for _ in range(2)] == ["b", "a"]


def test_a_pinned_job_is_the_client_s_choice() -> None:
    fleet = proven("a")
    fleet.add("b")
    assert [fleet.ask(replace(JOB, worker=B)).got for _ in range(5)] == ["b"] * 5


def test_without_ramps_a_new_worker_gets_its_cap_at_once() -> None:
    fleet = Fleet(replace(WIDE, ramp=False))
    fleet.add("a")
    prove(fleet, "a")
    fleet.add("b")
    assert (ramp(fleet, "b"), len(given(fleet, "b"))) == (None, 8)


@pytest.mark.parametrize("how", ["died", "removed"])
def test_the_end_of_the_last_proven_worker_lets_what_waits_go_to_the_others(how: str) -> None:
    fleet = proven("a", "c")
    fleet.add("b")
    waiting = [fleet.ask() for _ in range(30)]
    assert in_flight(fleet, "b") == 1
    for name in "ac":
        who, incarnation = worker_id(name), fleet.worker(name).incarnation
        fleet.apply(
            ev.WorkerDied(who, incarnation, "killed") if how == "died" else ev.RemovalRequested(who, force=True)
        )
    assert ramp(fleet, "b") is None
    assert in_flight(fleet, "b") == 8
    assert sum(asker.waits for asker in waiting) == 30 - 16 - 8


def test_a_cap_that_is_lowered_below_the_ramp_ends_it_with_the_next_good_piece() -> None:
    fleet = proven("a")
    fleet.add("b")
    prove(fleet, "b", pieces=2)
    fleet.apply(ev.MaxConcurrencySet(B, 2))
    assert len(given(fleet, "b", pieces=10)) == 2
    assert ramp(fleet, "b") == 2
    fleet.end(running(fleet, "b")[0], Result.SERVER_ERROR, 500)
    assert ramp(fleet, "b") == 2
    fleet.end(running(fleet, "b")[0])
    assert ramp(fleet, "b") is None


class RampMachine(RuleBasedStateMachine):
    """The rule once more, worker by worker, without any of the indexes that the scheduler keeps."""

    @initialize(cap=st.sampled_from([1, 2, 3, 8, 0]))
    def begin(self, cap: int) -> None:
        self.cap = cap
        self.fleet = Fleet(SchedulerLimits(max_concurrency=cap))
        self.shown: dict[str, int | None] = {}
        self.late: dict[str, bool] = {}
        self.out: set[str] = set()

    def bound(self, name: str) -> int | None:
        """What a worker's ramp lets it have, None when none holds."""
        holds = name not in self.out and self.late[name] and self.most_have_shown()
        return self.shown[name] if holds else None

    def most_have_shown(self) -> bool:
        there = [shown for name, shown in self.shown.items() if name not in self.out]
        return 2 * sum(shown is not None for shown in there) <= len(there)

    def has_room(self, name: str) -> bool:
        limits = [limit for limit in (self.cap or None, self.bound(name)) if limit is not None]
        return name not in self.out and in_flight(self.fleet, name) < min(limits, default=1_000)

    @rule(name=NAMES)
    def joins(self, name: str) -> None:
        if name not in self.shown:
            self.fleet.add(name)
            self.shown[name] = 1
            self.late[name] = self.most_have_shown()

    @rule(name=NAMES)
    def leaves(self, name: str) -> None:
        if name in self.shown:
            self.fleet.apply(ev.RemovalRequested(worker_id(name), force=True))
            for asker in running(self.fleet, name):
                self.fleet.end(asker, Result.ABANDONED)
            del self.shown[name]
            self.out.discard(name)

    @rule(name=NAMES)
    def goes_out_or_comes_back(self, name: str) -> None:
        if name in self.out:
            self.fleet.apply(ev.QuarantineLifted(worker_id(name)))
            self.fleet.answer(name)
            self.out.remove(name)
            self.late[name] = self.most_have_shown()
        elif name in self.shown:
            self.fleet.apply(ev.QuarantineRequested(worker_id(name)))
            self.shown[name] = 1
            self.out.add(name)

    @rule(times=st.integers(1, 6))
    def ask(self, times: int) -> None:
        for _ in range(times):
            roomy = {name for name in self.shown if self.has_room(name)}
            if roomy:
                assert self.fleet.ask().got in roomy

    @rule(name=NAMES, well=st.sampled_from([True, True, True, False]))
    def ends(self, name: str, *, well: bool) -> None:
        if name not in self.shown or not in_flight(self.fleet, name):
            return
        result, status = (Result.OK, 200) if well else (Result.SERVER_ERROR, 500)
        self.fleet.end(running(self.fleet, name)[0], result, status)
        ramp = self.shown[name]
        if ramp is not None and name not in self.out:
            enough = well and 2 * ramp >= min(self.cap or 64, 64)
            self.shown[name] = None if enough else 2 * ramp if well else max(1, ramp // 2)

    @invariant()
    def what_is_shown_is_the_rule(self) -> None:
        for name in self.shown:
            bound = self.bound(name)
            assert ramp(self.fleet, name) == (None if bound is None else min(bound, self.cap or bound))


TestRampMachine = RampMachine.TestCase
