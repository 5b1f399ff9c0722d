"""Groups of requests, by where their members go."""

import pytest
from hypothesis import settings

from core.fleet import T2I, T2V, Asker, Fleet, worker_id
from core.group_machine import GroupMachine
from core.steps import put_to_sleep
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.lines import Lines
from sglang_diffusion_routing.core.policies import POLICIES
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.work import Needs, Result, WorkSpec
from sglang_diffusion_routing.errors import NoRoutableWorker

pytestmark = pytest.mark.core


def fleet(*names: str, cap: int = 1, policy: str = "least-request") -> Fleet:
    made = Fleet(SchedulerLimits(max_concurrency=cap), policy)
    for name in names:
        made.add(name)
    return made


def member(group: str = "g", **asked: object) -> WorkSpec:
    return WorkSpec(group=group, **asked)  # type: ignore[arg-type]


def spread(group: str = "g", **asked: object) -> WorkSpec:
    return member(group, spread=True, **asked)


def slow_and_fast() -> Fleet:
    """Two workers whose speeds are known; the slow one has room for two pieces, the fast one for one."""
    made = Fleet(SchedulerLimits(max_concurrency=1, ramp=False), "least-work")
    for name, cap, speed in (("slow", 2, 0.25), ("fast", 1, 1.0)):
        made.add(name, max_concurrency=cap)
        learned = made.scheduler.speed_of(worker_id(name))
        assert learned is not None
        for _ in range(200):
            learned.learn(speed, 1.0)
    return made


def finish(its: Fleet, *askers: Asker) -> None:
    for asker in askers:
        its.end(asker)


def begin(its: Fleet, version: str, *, admit_new: bool = False) -> None:
    step = Step(StepKind.DISK, version, "/update_weights_from_disk")
    its.apply(ev.RefitOpened(frozenset({"m"}), f"to-{version}", version, Mode.ROLLING, step, admit_new))


def load(its: Fleet, version: str, *names: str) -> None:
    for name in names:
        its.apply(ev.RefitRequested(worker_id(name), f"to-{version}", version))
        its.apply(ev.CommandSucceeded(worker_id(name), its.worker(name).command_id or 0))


class TestKept:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_members_go_where_the_first_went_and_wait_for_it(self, policy: str) -> None:
        its = fleet(*"abc", policy=policy)
        first = its.ask(member())
        second, third = its.ask(member()), its.ask(member())
        assert (second.waits, third.waits) == (True, True)
        finish(its, first)
        assert (second.got, third.waits) == (first.got, True)
        finish(its, second)
        assert third.got == first.got

    def test_it_stays_there_when_all_members_have_ended(self) -> None:
        its = fleet(*"abc")
        first = its.ask(member())
        finish(its, first)
        assert [its.ask().got, its.ask().got, its.ask(member()).got] == ["b", "c", first.got]

    def test_it_holds_up_nobody_and_is_not_overtaken(self) -> None:
        its = fleet(*"ab")
        first = its.ask(member())
        waiting = its.ask(member())
        plain, behind = its.ask(), its.ask()
        assert (waiting.waits, plain.got, behind.waits) == (True, "b", True)
        finish(its, first)
        assert (waiting.got, behind.waits) == ("a", True)

    def test_members_that_wait_for_anybody_follow_the_first_that_is_given_out(self) -> None:
        its = fleet(*"ab")
        busy = [its.ask(), its.ask()]
        waiting = [its.ask(member()) for _ in range(3)]
        finish(its, busy[1])
        assert (waiting[0].got, waiting[1].waits) == ("b", True)
        finish(its, busy[0])
        assert [waiting[1].waits, its.ask().got] == [True, "a"]
        finish(its, waiting[0])
        assert (waiting[1].got, waiting[2].waits) == ("b", True)

    def test_members_that_were_held_back_follow_at_once(self) -> None:
        its = slow_and_fast()
        assert its.ask(member("other", cost_mpx_steps=8.0)).got == "fast"
        held = its.ask(member(cost_mpx_steps=8.0))
        assert held.waits
        assert (its.ask(member(cost_mpx_steps=1.0)).got, held.got) == ("slow", "slow")

    def test_members_that_wait_follow_one_that_another_worker_s_end_has_let_go(self) -> None:
        its = slow_and_fast()
        running = its.ask(member("other", cost_mpx_steps=8.0))
        its.now_s = 8.0
        short, long = its.ask(member(cost_mpx_steps=1.0)), its.ask(member(cost_mpx_steps=8.0))
        longest = its.ask(WorkSpec(cost_mpx_steps=9.0))
        assert [asker.waits for asker in (short, long, longest)] == [True, True, True]
        finish(its, running)
        # With so much ahead of the fast one, the short piece is for the slow one; and so is its whole group then.
        assert [asker.got for asker in (longest, short, long)] == ["fast", "slow", "slow"]

    def test_others_have_workers_of_their_own(self) -> None:
        its = fleet(*"ab")
        assert [its.ask(member("g")).got, its.ask(member("h")).got] == ["a", "b"]
        assert [its.ask(member("h")).waits, its.ask(member("g")).waits] == [True, True]

    def test_a_job_goes_to_its_worker_full_or_not(self) -> None:
        its = fleet(*"ab")
        assert [its.ask(member(creates_job=True)).got for _ in range(3)] == ["a", "a", "a"]

    def test_a_pin_goes_before_the_group_and_does_not_move_it(self) -> None:
        its = fleet(*"ab", cap=2)
        pinned = its.ask(member(worker=worker_id("b")))
        first = its.ask(member())
        assert (pinned.got, first.got) == ("b", "a")
        assert [its.ask(member(worker=worker_id("b"))).got, its.ask(member()).got] == ["b", "a"]

    def test_what_its_worker_does_not_make_goes_elsewhere_and_the_group_stays(self) -> None:
        its = Fleet(SchedulerLimits(max_concurrency=2))
        for name, capability in (("a", T2I), ("b", T2V), ("c", T2I)):
            its.add(name, capability)
        image, video = its.ask(member(needs=Needs.IMAGE)), its.ask(member(needs=Needs.VIDEO))
        assert (image.got, video.got, its.ask(member(needs=Needs.IMAGE)).got) == ("a", "b", "a")

    def test_a_worker_that_comes_to_make_something_else_does_not_keep_what_waits_for_it(self) -> None:
        its = fleet(*"ab")
        assert its.ask(member(needs=Needs.IMAGE)).got == "a"
        waiting = its.ask(member(needs=Needs.IMAGE))
        its.learn("a", T2V)
        assert waiting.got == "b"

    def test_reads_belong_to_no_group(self) -> None:
        its = fleet(*"ab")
        read = its.ask(member(skips_queue=True))
        assert read.got == "a"
        assert its.ask(member()).got == "b"
        its.end(read)
        assert its.ask(member()).waits


def refit(its: Fleet) -> None:
    its.apply(ev.RefitRequested(worker_id("a"), "r", "v"))


def sleep(its: Fleet) -> None:
    its.apply(ev.SleepRequested(worker_id("a")))


def hold(its: Fleet) -> None:
    its.apply(ev.HoldRequested(worker_id("a")))


def quarantine(its: Fleet) -> None:
    its.apply(ev.QuarantineRequested(worker_id("a")))


def remove(its: Fleet) -> None:
    its.apply(ev.RemovalRequested(worker_id("a")))


def remove_now(its: Fleet) -> None:
    its.apply(ev.RemovalRequested(worker_id("a"), force=True))


def fail(its: Fleet) -> None:
    incarnation = its.worker("a").incarnation
    for _ in range(3):
        its.apply(ev.ProbeFailed(worker_id("a"), incarnation, ProbeFailure.REFUSED))


LEAVING = [refit, sleep, hold, quarantine, remove, remove_now, fail]


class TestRebound:
    @pytest.mark.parametrize("leave", LEAVING)
    def test_a_group_moves_as_soon_as_its_worker_takes_no_work(self, leave: object) -> None:
        its = fleet(*"ab", cap=2)
        running = [its.ask(member()), its.ask(member())]
        waiting = [its.ask(member()) for _ in range(3)]
        assert {asker.got for asker in running} == {"a"}
        leave(its)  # type: ignore[operator]
        assert [asker.waits for asker in waiting] == [False, False, True]
        assert {asker.got for asker in waiting[:2]} == {"b"}
        its.add("c")
        assert waiting[2].waits
        finish(its, waiting[0])
        assert waiting[2].got == "b"

    @pytest.mark.parametrize("result", [Result.DIED, Result.CONNECT_FAILED, Result.ASLEEP, Result.SCHEDULER_DIED])
    def test_a_group_moves_when_its_worker_fails_a_member(self, result: Result) -> None:
        its = fleet(*"ab")
        first, second = its.ask(member()), its.ask(member())
        assert second.waits
        its.end(first, result, 0)
        # Both have room now; the other one has had it for longer.
        assert second.got == "b"
        finish(its, second)
        assert its.ask(member()).got == "b"

    @pytest.mark.parametrize("result", [Result.OK, Result.SERVER_ERROR, Result.ABANDONED])
    def test_an_answer_of_whatever_kind_and_a_client_that_leaves_move_nothing(self, result: Result) -> None:
        its = fleet(*"ab")
        first, second = its.ask(member()), its.ask(member())
        its.end(first, result)
        assert second.got == "a"

    def test_a_retry_takes_its_group_along(self) -> None:
        its = fleet(*"abc", cap=1)
        first, second = its.ask(member()), its.ask(member())
        others = [its.ask(), its.ask()]
        its.end(first, Result.SERVER_ERROR, 500)
        assert second.got == "a"
        third = its.ask(member())
        again = its.ask(member(avoid=frozenset({worker_id("a")})))
        assert (third.waits, again.waits) == (True, True)
        finish(its, others[0])
        assert (again.got, third.waits) == ("b", True)
        finish(its, second)
        assert third.waits
        finish(its, again)
        assert third.got == "b"

    def test_what_a_retry_unties_may_go_at_once_to_who_has_room(self) -> None:
        its = fleet(*"ab", cap=2)
        first, second = its.ask(member()), its.ask(member())
        waiting = its.ask(member())
        assert waiting.waits
        again = its.ask(member(avoid=frozenset({worker_id("a")})))
        assert (again.got, waiting.got, first.got, second.got) == ("b", "b", "a", "a")

    def test_a_retry_that_has_to_wait_keeps_nobody_from_who_has_room(self) -> None:
        its = fleet(*"abc")
        its.ask(member())
        waiting, busy = its.ask(member()), its.ask()
        again = its.ask(member(avoid=frozenset({worker_id("a"), worker_id("c")})))
        assert (busy.got, again.waits, waiting.got) == ("b", True, "c")

    def test_a_worker_that_was_away_has_no_claim(self) -> None:
        its = fleet(*"ab", cap=2)
        finish(its, its.ask(member()))
        quarantine(its)
        its.apply(ev.QuarantineLifted(worker_id("a")))
        its.answer("a")
        assert [its.ask(WorkSpec(worker=worker_id("a"))).got, its.ask(member()).got] == ["a", "b"]

    def test_members_keep_their_place_among_all_that_wait(self) -> None:
        its = fleet(*"ab")
        running = [its.ask(member()), its.ask()]
        early, plain, late = its.ask(member()), its.ask(), its.ask(member())
        quarantine(its)
        finish(its, running[1])
        assert (early.got, plain.waits, late.waits) == ("b", True, True)
        finish(its, early)
        assert (plain.got, late.waits) == ("b", True)

    def test_with_nobody_left_it_is_refused_as_anything_is(self) -> None:
        its = fleet("a")
        its.ask(member())
        waiting = its.ask(member())
        hold(its)
        assert isinstance(waiting.error, NoRoutableWorker)

    def test_it_waits_for_its_worker_s_end_of_a_refit_only_while_nobody_else_is_there(self) -> None:
        its = fleet("a")
        running, waiting = its.ask(member()), its.ask(member())
        refit(its)
        assert waiting.waits
        its.add("b")
        assert waiting.got == "b"
        assert running.got == "a"

    def test_a_paused_queue_unties_too(self) -> None:
        its = fleet(*"ab")
        its.ask(member())
        waiting = its.ask(member())
        its.scheduler.pause()
        quarantine(its)
        assert waiting.waits
        its.deliver(its.scheduler.resume(its.now_s))
        assert waiting.got == "b"


class TestSpread:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_members_go_where_fewest_of_them_have_been(self, policy: str) -> None:
        its = fleet(*"abc", cap=0, policy=policy)
        for _ in range(3):
            its.ask(WorkSpec(worker=worker_id("c")))
        given = [its.ask(spread()).got for _ in range(9)]
        assert [sorted(given[at : at + 3]) for at in (0, 3, 6)] == [["a", "b", "c"]] * 3

    def test_who_has_had_fewest_in_all_counts_and_not_who_has_fewest_now(self) -> None:
        its = fleet(*"ab", cap=0)
        for _ in range(3):
            finish(its, its.ask(spread(worker=worker_id("a"))))
        assert [its.ask(spread()).got for _ in range(4)] == ["b", "b", "b", "a"]

    @pytest.mark.parametrize("policy", POLICIES)
    def test_nobody_waits_for_the_sake_of_spreading(self, policy: str) -> None:
        its = fleet(*"ab", cap=2, policy=policy)
        busy = [its.ask(WorkSpec(worker=worker_id("b"))) for _ in range(2)]
        assert [its.ask(spread()).got for _ in range(2)] == ["a", "a"]
        waiting = its.ask(spread())
        finish(its, busy[0])
        assert waiting.got == "b"

    def test_it_is_not_held_back_for_a_faster_worker(self) -> None:
        its = slow_and_fast()
        its.ask(WorkSpec(cost_mpx_steps=2.0))
        assert its.ask(WorkSpec(cost_mpx_steps=2.0)).waits
        assert its.ask(spread(cost_mpx_steps=2.0)).got == "slow"

    def test_of_what_waits_each_goes_where_its_own_group_has_been_least(self) -> None:
        its = fleet(*"ab", cap=0)
        assert its.ask(spread("g")).got == "a"
        its.ask(spread("h", worker=worker_id("b")))
        its.scheduler.pause()
        waiting = [its.ask(spread("h")), its.ask(spread("g"))]
        its.deliver(its.scheduler.resume(its.now_s))
        assert [asker.got for asker in waiting] == ["a", "b"]

    def test_jobs_are_spread_full_or_not(self) -> None:
        its = fleet(*"ab")
        assert sorted(its.ask(spread(creates_job=True)).got for _ in range(4)) == ["a", "a", "b", "b"]

    def test_a_worker_that_failed_a_member_is_avoided(self) -> None:
        its = fleet(*"ab", cap=0)
        its.ask(spread(worker=worker_id("b")))
        assert its.ask(spread(avoid=frozenset({worker_id("a")}))).got == "b"

    def test_both_ways_may_be_asked_for_in_one_group(self) -> None:
        its = fleet(*"ab", cap=0)
        kept = its.ask(member()).got
        assert [its.ask(spread()).got, its.ask(member()).got, its.ask(spread()).got] == ["b", kept, "b"]


class TestWeights:
    @pytest.mark.parametrize("admit_new", [False, True])
    @pytest.mark.parametrize("ask", [member, spread])
    def test_no_member_has_older_weights_than_one_before(self, ask: type[WorkSpec], *, admit_new: bool) -> None:
        its = fleet(*"ab", cap=0)
        begin(its, "v1", admit_new=admit_new)
        load(its, "v1", "b")
        new = its.ask(ask(worker=worker_id("b")))
        assert new.got == "b"
        assert [its.ask(ask()).got for _ in range(3)] == ["b", "b", "b"]

    def test_without_a_group_the_old_ones_go_on_serving(self) -> None:
        its = fleet(*"ab", cap=0)
        begin(its, "v1")
        load(its, "v1", "b")
        assert sorted(its.ask().got for _ in range(2)) == ["a", "b"]
        assert sorted(its.ask(spread("other")).got for _ in range(2)) == ["a", "b"]

    def test_what_waits_already_needs_them_too(self) -> None:
        its = fleet(*"ab", cap=1)
        busy = [its.ask(WorkSpec(worker=worker_id(name))) for name in "ab"]
        waiting = [its.ask(spread()), its.ask(spread())]
        begin(its, "v1")
        its.apply(ev.RefitRequested(worker_id("b"), "to-v1", "v1"))
        finish(its, busy[1])
        its.apply(ev.CommandSucceeded(worker_id("b"), its.worker("b").command_id or 0))
        assert (waiting[0].got, waiting[1].waits) == ("b", True)
        finish(its, busy[0])
        assert waiting[1].waits
        finish(its, waiting[0])
        assert waiting[1].got == "b"

    def test_they_wait_until_their_worker_has_them(self) -> None:
        its = fleet(*"ab", cap=1)
        begin(its, "v1")
        load(its, "v1", "b")
        running = its.ask(spread())
        while running.got != "b":
            finish(its, running)
            running = its.ask(spread())
        waiting = its.ask(spread())
        assert waiting.waits
        load(its, "v1", "a")
        assert waiting.got == "a"

    def test_whoever_waits_for_them_is_given_a_worker_that_leaves_its_weight_group(self) -> None:
        its = fleet(*"ab", cap=1)
        begin(its, "v1")
        load(its, "v1", "b")
        its.ask(spread(worker=worker_id("b")))
        late = its.ask(spread())
        assert late.waits
        its.apply(ev.LabelsSet(worker_id("a"), (("group", "other"),)))
        assert late.got == "a"

    def test_a_kept_group_leaves_a_worker_that_is_behind(self) -> None:
        its = fleet(*"ab", cap=2)
        assert its.ask(member()).got == "a"
        begin(its, "v1")
        load(its, "v1", "b")
        assert its.ask(spread()).got == "b"
        assert its.ask(member()).got == "b"

    def test_an_older_version_that_is_newly_asked_for_is_newer(self) -> None:
        its = fleet(*"ab", cap=0)
        for version in ("v1", "v2"):
            begin(its, version)
            load(its, version, "a", "b")
            its.apply(ev.RefitClosed(f"to-{version}"))
        finish(its, its.ask(spread()))
        begin(its, "v1")
        load(its, "v1", "a")
        assert [its.ask(spread()).got for _ in range(3)] == ["b", "a", "a"]

    def test_the_weights_of_another_weight_group_are_not_compared(self) -> None:
        its = fleet("a", cap=0)
        begin(its, "v1")
        load(its, "v1", "a")
        its.apply(ev.RefitClosed("to-v1"))
        its.add("b", group="other")
        assert its.ask(spread()).got == "a"
        assert [its.ask(spread()).got for _ in range(3)] == ["b", "a", "b"]

    def test_a_demand_that_its_worker_does_not_meet_takes_the_group_along(self) -> None:
        its = fleet(*"ab", cap=2)
        assert its.ask(member()).got == "a"
        begin(its, "v1")
        load(its, "v1", "b")
        assert [its.ask(member(min_version="v1")).got, its.ask(member()).got] == ["b", "b"]

    def test_what_waits_for_its_group_s_weights_has_no_end_of_its_own(self) -> None:
        its = fleet(*"ab", cap=1)
        begin(its, "v1")
        load(its, "v1", "b")
        its.ask(spread(worker=worker_id("b")))
        waiting = its.ask(spread(min_version="0"))
        its.tick(10_000.0)
        assert waiting.waits


class TestBounds:
    def test_a_release_looks_at_no_other_worker_s_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        its = fleet(*"abcd")
        running = {name: its.ask(member(f"kept on {name}", worker=None)) for name in "abcd"}
        for name in "abcd":
            its.ask(member(f"kept on {name}"))
            its.ask(member(f"kept on {name}", min_version="0"))
        looked: list[object] = []
        kinds = Lines.kinds

        def noting(lines: Lines, who: object) -> object:
            seen = list(kinds(lines, who))  # type: ignore[arg-type]
            looked.extend(key.bound for key, _ in seen)
            return seen

        monkeypatch.setattr(Lines, "kinds", noting)
        finish(its, running["a"])
        assert set(looked) == {worker_id(running["a"].got)}

    def test_thousands_of_groups_on_a_worker_wait_in_one_line(self) -> None:
        its = Fleet(SchedulerLimits(QueueLimits(max_requests=10_000), max_concurrency=1))
        its.add("a")
        first = its.ask(member("0"))
        for number in range(1, 1_000):
            its.ask(member(str(number)))
        finish(its, first)
        (lane,) = its.scheduler._lanes.all
        assert len(list(lane.lines.items())) == 1

    def test_who_leaves_the_queue_leaves_its_group(self) -> None:
        its = fleet(*"ab")
        running, waiting = its.ask(member()), its.ask(member())
        assert waiting.ticket is not None
        its.scheduler.abandon(waiting.ticket)
        finish(its, running)
        put_to_sleep(its, "a")
        assert its.ask(member()).got == "b"


TestGroupPromises = GroupMachine.TestCase
TestGroupPromises.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
# As long as it takes to find the shortest way to a failure.
TestGroupPromises.pytestmark = pytest.mark.timeout(600)
