"""Work that demands weights as new as some version."""

import pytest

from core.fleet import Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.demands import REMEMBERED, Demands
from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.work import LineKey, WorkSpec
from sglang_diffusion_routing.errors import NoRoutableWorker, QueueFull, QueueTimeout, WeightsUnmet

pytestmark = pytest.mark.core

WAIT_S = 600.0


def demand(version: str, *, deadline_s: float | None = None, avoid: str = "", creates_job: bool = False) -> WorkSpec:
    failed = frozenset({worker_id(avoid)}) if avoid else frozenset()
    return WorkSpec(min_version=version, deadline_s=deadline_s, avoid=failed, creates_job=creates_job)


def fleet(*names: str, cap: int = 1) -> Fleet:
    made = Fleet(SchedulerLimits(max_concurrency=cap))
    for name in names:
        made.add(name)
    return made


def roll(fleet: Fleet, version: str, *names: str) -> None:
    """Let idle workers load a version while the others go on with what they have."""
    step = Step(StepKind.DISK, version, "/update_weights_from_disk")
    fleet.apply(ev.RefitOpened(frozenset({"m"}), f"to-{version}", version, Mode.ROLLING, step))
    for name in names:
        fleet.apply(ev.RefitRequested(worker_id(name), f"to-{version}", version))
        fleet.apply(ev.CommandSucceeded(worker_id(name), fleet.worker(name).command_id or 0))


def commit(fleet: Fleet, version: str) -> None:
    fleet.apply(ev.RefitClosed(f"to-{version}"))


def test_before_any_refit_the_version_is_0() -> None:
    its = fleet("a")
    assert its.ask(demand("0")).got == "a"
    assert its.ask(demand("v1")).waits


def test_it_goes_only_to_who_has_the_version() -> None:
    its = fleet("a", "b", "c", cap=2)
    roll(its, "v1", "b")
    assert [its.ask(demand("v1")).got for _ in range(2)] == ["b", "b"]
    late = its.ask(demand("v1"))
    assert late.waits
    assert sorted(its.ask(demand("0")).got for _ in range(2)) == ["a", "c"]


def test_a_later_version_will_do_and_an_earlier_one_will_not() -> None:
    its = fleet("a", "b")
    roll(its, "v1", "a", "b")
    commit(its, "v1")
    roll(its, "v2", "a")
    assert its.ask(demand("v2")).got == "a"
    assert its.ask(demand("v1")).got == "b"


def test_it_is_granted_as_soon_as_a_worker_has_the_version() -> None:
    its = fleet("a", "b")
    waiting = its.ask(demand("v1"))
    roll(its, "v1", "b")
    assert waiting.got == "b"


def test_it_holds_up_nobody_and_is_not_overtaken() -> None:
    its = fleet("a", "b")
    roll(its, "v1", "b")
    busy = its.ask(demand("v1"))
    waiting = its.ask(demand("v1"))
    plain = its.ask()
    behind = its.ask()
    assert (plain.got, waiting.waits, behind.waits) == ("a", True, True)
    its.end(busy)
    assert (waiting.got, behind.waits) == ("b", True)
    its.end(plain)
    assert behind.got == "a"


def test_a_worker_that_failed_the_work_is_avoided_whatever_it_has() -> None:
    its = fleet("a", "b", "c")
    roll(its, "v1", "a", "b")
    assert [its.ask(demand("v1", avoid="a")).got, its.ask(demand("v1", avoid="b")).got] == ["b", "a"]
    assert its.ask(demand("v1", avoid="a")).waits


def test_a_job_s_creation_waits_for_weights_but_not_for_room() -> None:
    its = fleet("a", "b")
    waiting = its.ask(demand("v1", creates_job=True))
    assert waiting.waits
    roll(its, "v1", "b")
    assert [waiting.got, its.ask(demand("v1", creates_job=True)).got] == ["b", "b"]


def test_reads_demand_nothing() -> None:
    its = fleet("a")
    assert its.ask(WorkSpec(skips_queue=True, min_version="v9")).got == "a"


def test_a_worker_that_moves_to_the_group_that_has_the_version_is_given_what_waits() -> None:
    its = fleet("a")
    roll(its, "v1", "a")
    commit(its, "v1")
    its.apply(ev.LabelsSet(worker_id("a"), (("group", "g"),)))
    waiting = its.ask(demand("v1"))
    assert waiting.waits
    its.apply(ev.LabelsSet(worker_id("a"), ()))
    assert waiting.got == "a"


def test_with_nobody_on_the_way_it_is_refused_as_anything_is() -> None:
    its = fleet("a")
    its.apply(ev.SleepRequested(worker_id("a")))
    its.apply(ev.CommandSucceeded(worker_id("a"), its.worker("a").command_id or 0))
    assert isinstance(its.ask(demand("v1")).error, NoRoutableWorker)


class TestWaiting:
    def test_it_ends_with_what_was_wanted_and_what_there_is(self) -> None:
        its = fleet("a")
        roll(its, "v1", "a")
        commit(its, "v1")
        waiting = its.ask(demand("v2"))
        its.tick(WAIT_S - 1.0)
        assert waiting.waits
        its.tick(1.0)
        assert isinstance(waiting.error, WeightsUnmet)
        assert waiting.error.facts == {
            "min_weight_version": "v2",
            "targets": {"m": "v1"},
            "waited_s": WAIT_S,
            "by_status": {"active": 1},
        }
        assert (its.scheduler.queued, its.scheduler.next_deadline_s()) == (0, None)

    def test_a_deadline_of_the_queue_s_that_comes_first_counts(self) -> None:
        its = fleet("a")
        waiting = its.ask(demand("v1", deadline_s=5.0))
        its.tick(5.0)
        assert isinstance(waiting.error, WeightsUnmet)

    def test_whoever_waits_for_room_only_waits_on(self) -> None:
        its = fleet("a")
        running = its.ask()
        waiting = its.ask(demand("0"))
        for _ in range(3):
            its.tick(WAIT_S)
            assert waiting.waits
        its.end(running)
        assert waiting.got == "a"

    def test_it_has_an_end_also_after_that(self) -> None:
        its = fleet("a", "b")
        roll(its, "v1", "a")
        its.ask(demand("v1"))
        waiting = its.ask(demand("v1"))
        its.tick(WAIT_S)
        assert waiting.waits
        its.apply(ev.QuarantineRequested(worker_id("a")))
        its.tick(WAIT_S)
        assert isinstance(waiting.error, WeightsUnmet)

    def test_a_deadline_that_passes_while_it_waits_for_room_is_an_ordinary_one(self) -> None:
        its = fleet("a")
        its.ask()
        waiting = its.ask(demand("0", deadline_s=WAIT_S + 5.0))
        its.tick(WAIT_S)
        assert waiting.waits
        its.tick(5.0)
        assert isinstance(waiting.error, QueueTimeout)

    def test_a_paused_queue_refuses_none_that_could_be_met(self) -> None:
        its = fleet("a")
        its.scheduler.pause()
        could, could_not = its.ask(demand("0")), its.ask(demand("v1"))
        its.tick(WAIT_S)
        assert (could.waits, type(could_not.error)) == (True, WeightsUnmet)
        its.deliver(its.scheduler.resume(its.now_s))
        assert could.got == "a"


class TestBounds:
    def test_only_so_many_versions_are_waited_for_at_once(self) -> None:
        its = Fleet(SchedulerLimits(QueueLimits(max_demands=2)))
        its.add("a")
        first, second = its.ask(demand("v1")), its.ask(demand("v2"))
        assert (its.ask(demand("v2")).waits, type(its.ask(demand("v3")).error)) == (True, QueueFull)
        assert (first.ticket is not None, second.waits) == (True, True)
        assert first.ticket is not None
        its.scheduler.abandon(first.ticket)
        assert its.ask(demand("v3")).waits

    def test_versions_that_nobody_waits_for_are_forgotten(self) -> None:
        demands = Demands(Ledger(), {})
        for number in range(3 * REMEMBERED):
            demands.avoid(LineKey(min_version=f"v{number}"))
        assert len(demands._unmet) <= REMEMBERED


class CountingLedger(Ledger):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def meets(self, name: str | None, loaded: object, wanted: str) -> bool:
        self.asked += 1
        return False


def test_workers_are_looked_at_once_a_version_until_one_changes() -> None:
    its, ledger = fleet("a", "b"), CountingLedger()
    stations = {worker_id(name): Station(its.worker(name)) for name in "ab"}
    demands = Demands(ledger, stations)
    for _ in range(5):
        assert demands.avoid(LineKey(min_version="v1")) == stations.keys()
    assert ledger.asked == 2
    demands.forget()
    demands.avoid(LineKey(min_version="v1"))
    assert (demands.avoid(LineKey()), ledger.asked) == (frozenset(), 4)


def test_the_end_of_work_looks_at_its_own_worker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a fleet may be free while demands wait: walking over it would cost every request that ends."""
    its = fleet(*"abcdefgh")
    roll(its, "v1", "a")
    its.ask(demand("v1"))
    waiting = [its.ask(demand("v1")) for _ in range(3)]
    plain = its.ask()

    def walk(*_: object, **__: object) -> bool:
        raise AssertionError("all stations were looked at")

    monkeypatch.setattr(Lane, "can_grant", walk)
    its.end(plain)
    assert [asker.waits for asker in waiting] == [True] * 3
