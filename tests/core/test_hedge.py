"""When a copy of running work is worth it."""

from dataclasses import replace

import pytest

from core.fleet import Asker, Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.hedge import CLEARLY, GAIN_S, LATE, rests_s
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.work import WorkSpec

pytestmark = pytest.mark.core

WORK = WorkSpec(cost_mpx_steps=10.0, cost_known=True)


class Copied(Fleet):
    """Workers with weights, whose speeds are known: in megapixel-steps per second by name."""

    def __init__(self, cap: int = 2, *, answer: bool = True, **speeds: float) -> None:
        super().__init__(SchedulerLimits(max_concurrency=cap), "least-work")
        for name, speed in speeds.items():
            self.register(name)
            self.learn(name)
            if answer:
                self.answer(name)
            known = self.scheduler.speed_of(worker_id(name))
            assert known is not None
            for _ in range(64):
                known.learn(10.0, 10.0 / speed)
        if speeds and answer:
            self.report("v1", *speeds)

    def report(self, version: str, *names: str) -> None:
        """Let the trainer have loaded a version into these workers."""
        group = self.worker(names[0]).weight_group
        assert group is not None
        step = Step(StepKind.REPORTED, version, "")
        self.apply(ev.RefitOpened(frozenset({group}), version, version, Mode.IMMEDIATE, step))
        for name in names:
            self.apply(ev.WeightsReported(worker_id(name), version, version))
        self.apply(ev.RefitClosed(version))

    def stragglers(self) -> list[tuple[str, float]]:
        """The workers of what may be worth a copy, and the seconds that it takes still."""
        found = self.scheduler.hedges.stragglers(self.now_s)
        return [(lease.worker.url.host, pytest.approx(rest_s, rel=1e-3)) for lease, rest_s in found]

    def copies(self) -> list[tuple[str, str]]:
        """From which worker a copy would go to which."""
        hedges = self.scheduler.hedges
        places = [(lease, hedges.place(lease, rest_s)) for lease, rest_s in hedges.stragglers(self.now_s)]
        return [(lease.worker.url.host, place.url.host) for lease, place in places if place is not None]

    def runs(self, name: str, spec: WorkSpec = WORK) -> Asker:
        """Give a worker a piece of work, whatever the policy would say."""
        asker = Asker(spec)
        asker.granted(self.scheduler.adopt(self.worker(name), spec, self.now_s))
        return asker


class TestRest:
    def rests(self, fleet: Copied, name: str) -> list[float]:
        station = fleet.scheduler._by_id[worker_id(name)]
        return [rest_s for _, rest_s in rests_s(station, fleet.now_s)]

    @pytest.mark.parametrize(
        ("spent_s", "rest_s"),
        [(0.0, 10.0), (4.0, 6.0), (10.0, 0.0), (10.0 * LATE, 0.0), (10.0 * LATE + 1, 21.0), (100.0, 100.0)],
    )
    def test_work_takes_what_its_speed_says_and_what_is_late_as_long_again(self, spent_s: float, rest_s: float) -> None:
        fleet = Copied(a=1.0)
        fleet.runs("a")
        fleet.now_s = spent_s
        assert self.rests(fleet, "a") == pytest.approx([rest_s])

    def test_what_is_behind_other_work_waits_for_it(self) -> None:
        fleet = Copied(a=1.0)
        fleet.runs("a")
        fleet.runs("a", replace(WORK, cost_mpx_steps=4.0))
        fleet.now_s = 3.0
        assert self.rests(fleet, "a") == pytest.approx([7.0, 11.0])
        fleet.now_s = 50.0
        assert self.rests(fleet, "a") == pytest.approx([50.0, 54.0])

    def test_it_begins_when_the_work_before_it_has_ended(self) -> None:
        fleet = Copied(a=1.0)
        first = fleet.runs("a")
        fleet.runs("a")
        fleet.now_s = 10.0
        fleet.end(first)
        fleet.now_s = 12.0
        assert self.rests(fleet, "a") == pytest.approx([8.0])

    def test_reads_take_no_time(self) -> None:
        fleet = Copied(a=1.0)
        fleet.runs("a", WorkSpec(skips_queue=True))
        fleet.runs("a")
        assert self.rests(fleet, "a") == pytest.approx([10.0])


class TestStragglers:
    def test_they_come_longest_first(self) -> None:
        fleet = Copied(a=1.0, b=1.0, c=1.0)
        fleet.runs("a")
        fleet.runs("b", replace(WORK, cost_mpx_steps=30.0))
        assert fleet.stragglers() == [("b", 30.0), ("a", 10.0)]

    def test_there_are_none_while_every_worker_has_something_to_do(self) -> None:
        fleet = Copied(a=1.0, b=1.0)
        fleet.runs("a")
        asker = fleet.runs("b")
        assert fleet.stragglers() == []
        fleet.end(asker)
        assert fleet.stragglers() == [("a", 10.0)]

    def test_there_are_none_while_anything_waits(self) -> None:
        fleet = Copied(cap=1, a=1.0, b=1.0)
        fleet.runs("a")
        assert fleet.stragglers() == [("a", 10.0)]
        fleet.ask(replace(WORK, worker=worker_id("a")))
        assert fleet.scheduler.queued == 1
        assert fleet.stragglers() == []

    @pytest.mark.parametrize(
        "spec",
        [
            replace(WORK, creates_job=True),
            replace(WORK, cost_known=False),
            replace(WORK, worker=worker_id("a")),
            replace(WORK, group="g"),
            replace(WORK, skips_queue=True),
            replace(WORK, digest=b"d"),
        ],
        ids=["a job", "of unknown cost", "pinned", "kept on a worker", "a read", "placed by what it is"],
    )
    def test_some_work_is_none_however_late(self, spec: WorkSpec) -> None:
        fleet = Copied(a=1.0, b=1.0)
        fleet.runs("a", spec)
        fleet.now_s = 1000.0
        assert fleet.stragglers() == []

    def test_a_group_that_is_spread_has_some(self) -> None:
        fleet = Copied(a=1.0, b=1.0)
        fleet.runs("a", replace(WORK, group="g", spread=True))
        assert fleet.stragglers() == [("a", 10.0)]

    def test_what_is_all_but_done_is_none(self) -> None:
        fleet = Copied(a=1.0, b=1.0)
        asker = fleet.runs("a")
        fleet.now_s = 10.0 - GAIN_S
        assert fleet.stragglers() == []
        fleet.now_s = 1000.0
        assert asker.lease is not None
        asker.lease.done_s = 999.0
        assert fleet.stragglers() == []

    def test_nothing_is_known_of_workers_without_a_speed(self) -> None:
        fleet = Copied()
        fleet.add("a")
        fleet.add("b")
        fleet.runs("a")
        fleet.now_s = 1000.0
        assert fleet.stragglers() == []


class TestPlace:
    def test_work_on_time_is_left_where_it_is(self) -> None:
        fleet = Copied(a=1.0, b=1.0)
        fleet.runs("a")
        for now_s in (0.0, 5.0, 10.0, 10.0 * LATE):
            fleet.now_s = now_s
            assert fleet.copies() == []

    def test_what_is_late_gets_a_copy_as_soon_as_that_would_be_clearly_sooner(self) -> None:
        fleet = Copied(a=1.0, b=1.0)
        fleet.runs("a")
        fleet.now_s = 10.0 * LATE + 0.1
        assert fleet.copies() == [("a", "b")]

    @pytest.mark.parametrize(("speed", "expected"), [(CLEARLY * 0.9, []), (CLEARLY * 1.1, [("slow", "fast")])])
    def test_work_on_a_slow_worker_gets_one_where_it_is_done_clearly_sooner(
        self, speed: float, expected: list[tuple[str, str]]
    ) -> None:
        fleet = Copied(slow=1.0, fast=speed)
        fleet.runs("slow")
        assert fleet.copies() == expected

    def test_a_copy_that_gains_less_than_a_second_is_none(self) -> None:
        fleet = Copied(slow=10.0 / 1.9, fast=10.0)
        fleet.runs("slow")
        assert fleet.stragglers() == [("slow", 1.9)]
        assert fleet.copies() == []

    def test_the_fastest_idle_worker_gets_it(self) -> None:
        fleet = Copied(a=1.0, b=3.0, c=5.0, d=9.0)
        fleet.runs("a")
        fleet.runs("d")
        assert fleet.copies() == [("a", "c")]

    def test_it_goes_to_no_worker_that_has_failed_the_work(self) -> None:
        fleet = Copied(a=1.0, b=3.0, c=5.0)
        fleet.runs("a", replace(WORK, avoid=frozenset({worker_id("c")})))
        assert fleet.copies() == [("a", "b")]

    def test_it_goes_to_the_same_weights_only(self) -> None:
        fleet = Copied(a=1.0, b=3.0, c=5.0)
        fleet.runs("a")
        fleet.report("v2", "c")
        assert fleet.copies() == []
        fleet.report("v2", "b")
        assert fleet.copies() == []
        fleet.report("v2", "a", "b", "c")
        assert fleet.copies() == [("a", "c")]

    def test_it_goes_to_no_worker_that_is_tried_for_want_of_a_better_one(self) -> None:
        fleet = Copied(answer=False, a=1.0, b=3.0)
        assert fleet.ask().got == "b"
        fleet = Copied(answer=False, a=1.0, b=3.0)
        fleet.runs("a")
        assert fleet.copies() == []

    def test_it_goes_to_no_worker_that_takes_no_work(self) -> None:
        fleet = Copied(a=1.0, b=3.0, c=2.0)
        fleet.runs("a")
        fleet.apply(ev.SleepRequested(worker_id("b")))
        assert fleet.copies() == [("a", "c")]
