"""Every phase against everything that may be asked of a worker or happen to it."""

from collections.abc import Callable

import pytest

from core.fleet import Fleet, snapshot, worker_id
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.commands import AnswerRequest, Outcome
from sglang_diffusion_routing.core.state import TABLE, Fate, Health, Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.worker import RequestId, Worker
from sglang_diffusion_routing.errors import Conflict

pytestmark = pytest.mark.core

A = worker_id("a")
FIRST, SECOND, THIRD = RequestId("first"), RequestId("second"), RequestId("third")
DRAIN_LIMIT_S = 1_800.0


def asked(trigger: Trigger, request: RequestId | None = None, refit_id: str = "r1") -> ev.Event:
    match trigger:
        case Trigger.HOLD:
            return ev.HoldRequested(A, request)
        case Trigger.REFIT:
            return ev.RefitRequested(A, refit_id, "v1", request)
        case Trigger.SLEEP:
            return ev.SleepRequested(A, request)
        case Trigger.REMOVE:
            return ev.RemovalRequested(A, request=request)
        case Trigger.FORCE_REMOVE:
            return ev.RemovalRequested(A, force=True, request=request)
        case Trigger.WAKE:
            return ev.WakeRequested(A, request)
        case _:
            raise ValueError(trigger)


ASKED = (Trigger.HOLD, Trigger.REFIT, Trigger.SLEEP, Trigger.REMOVE, Trigger.FORCE_REMOVE, Trigger.WAKE)


class Bench:
    """One worker, driven to a phase by events alone; it holds a lease while it drains."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.worker: Worker = self.fleet.add("a")

    @property
    def phase(self) -> tuple[WorkerState, Intent | None]:
        return self.worker.state, self.worker.intent

    def ask(self, trigger: Trigger, request: RequestId | None = None, refit_id: str = "r1") -> list[do.Command]:
        return self.fleet.apply(asked(trigger, request, refit_id))

    def happen(self, trigger: Trigger) -> list[do.Command]:
        """Report what happened, as the runtime would."""
        command_id = self.worker.command_id or 999
        match trigger:
            case Trigger.DRAINED:
                return self.fleet.apply(ev.WorkerDrained(A, self.worker.incarnation))
            case Trigger.DRAIN_EXPIRED:
                return self.fleet.tick(DRAIN_LIMIT_S)
            case Trigger.SUCCEEDED:
                return self.fleet.apply(ev.CommandSucceeded(A, command_id))
            case Trigger.REFUSED:
                return self.fleet.apply(ev.CommandRefused(A, command_id, "no", unchanged=True))
            case Trigger.LOST:
                return self.fleet.apply(ev.CommandLost(A, command_id, "gone"))
            case Trigger.FOUND_ASLEEP:
                return self.fleet.apply(ev.WorkFoundAsleep(A, self.worker.incarnation, self.fleet.now_s))
            case _:
                raise ValueError(trigger)


HAPPENED = (
    Trigger.DRAINED,
    Trigger.DRAIN_EXPIRED,
    Trigger.SUCCEEDED,
    Trigger.REFUSED,
    Trigger.LOST,
    Trigger.FOUND_ASLEEP,
)


def active() -> Bench:
    return Bench()


def draining(intent: Trigger) -> Callable[[], Bench]:
    def build() -> Bench:
        bench = Bench()
        bench.fleet.ask()
        bench.ask(intent, FIRST)
        return bench

    return build


def commanded(*triggers: Trigger) -> Callable[[], Bench]:
    def build() -> Bench:
        bench = Bench()
        for trigger in triggers[:-1]:
            bench.ask(trigger)
            bench.happen(Trigger.SUCCEEDED)
        bench.ask(triggers[-1], FIRST)
        return bench

    return build


def sleeping() -> Bench:
    bench = commanded(Trigger.SLEEP)()
    bench.happen(Trigger.SUCCEEDED)
    return bench


PHASES: dict[tuple[WorkerState, Intent | None], Callable[[], Bench]] = {
    (WorkerState.ACTIVE, None): active,
    (WorkerState.DRAINING, Intent.HOLD): draining(Trigger.HOLD),
    (WorkerState.DRAINING, Intent.REFIT): draining(Trigger.REFIT),
    (WorkerState.DRAINING, Intent.SLEEP): draining(Trigger.SLEEP),
    (WorkerState.DRAINING, Intent.REMOVE): draining(Trigger.REMOVE),
    (WorkerState.UPDATING, None): commanded(Trigger.REFIT),
    (WorkerState.RELEASING, None): commanded(Trigger.SLEEP),
    (WorkerState.SLEEPING, None): sleeping,
    (WorkerState.RESUMING, None): commanded(Trigger.SLEEP, Trigger.WAKE),
}


def answers(commands: list[do.Command]) -> list[AnswerRequest]:
    return [command for command in commands if isinstance(command, AnswerRequest)]


def test_every_phase_but_removed_can_be_driven_to() -> None:
    assert set(PHASES) == set(TABLE) - {(WorkerState.REMOVED, None)}
    assert {phase: build().phase for phase, build in PHASES.items()} == {phase: phase for phase in PHASES}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("trigger", ASKED)
def test_what_is_asked_moves_a_worker_as_written_or_conflicts_and_changes_nothing(
    phase: tuple[WorkerState, Intent | None], trigger: Trigger
) -> None:
    bench = PHASES[phase]()
    before = snapshot(bench.worker)
    move = TABLE[phase].get(trigger)
    if move is None:
        with pytest.raises(Conflict) as caught:
            bench.ask(trigger, SECOND)
        assert caught.value.facts == {"worker": A, "state": phase[0].value, "asked": trigger.value}
        assert snapshot(bench.worker) == before
        return
    commands = bench.fleet.pool.handle(asked(trigger, SECOND), bench.fleet.now_s)
    assert bench.phase == (move.state, move.intent)
    told = {answer.request: answer.outcome for answer in answers(commands)}
    if move.fate is Fate.DONE:
        assert told[SECOND] is Outcome.DONE
    else:
        assert SECOND not in told
    moved_on = move.fate is Fate.BEGUN or move.state is not phase[0]
    first_waits = phase not in {(WorkerState.ACTIVE, None), (WorkerState.SLEEPING, None)}
    assert told.get(FIRST) is (Outcome.SUPERSEDED if first_waits and moved_on else None)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("trigger", HAPPENED)
def test_what_happens_moves_a_worker_as_written_or_is_too_late_and_changes_nothing(
    phase: tuple[WorkerState, Intent | None], trigger: Trigger
) -> None:
    bench = PHASES[phase]()
    before = snapshot(bench.worker)
    move = TABLE[phase].get(trigger)
    commands = bench.happen(trigger)
    if move is None or (move.fate is Fate.KEPT and move.state is phase[0]):
        assert (snapshot(bench.worker), commands) == (before, [])
        return
    assert bench.phase == (move.state, move.intent)
    outcomes = {
        Fate.DONE: [Outcome.DONE],
        Fate.REFUSED: [Outcome.REFUSED],
        Fate.LOST: [Outcome.LOST],
        Fate.EXPIRED: [Outcome.EXPIRED],
        Fate.KEPT: [],
    }[move.fate]
    assert [(answer.request, answer.outcome) for answer in answers(commands)] == [(FIRST, o) for o in outcomes]


def test_sleep_waits_for_the_last_request() -> None:
    bench = Bench()
    asker = bench.fleet.ask()
    assert bench.ask(Trigger.SLEEP, FIRST) == [do.AnnounceDrain(A)]
    assert bench.phase == (WorkerState.DRAINING, Intent.SLEEP)
    assert bench.fleet.end(asker) == [do.ReleaseMemory(A, 1)]
    assert bench.happen(Trigger.SUCCEEDED) == [AnswerRequest(FIRST, A, Outcome.DONE)]
    assert bench.phase == (WorkerState.SLEEPING, None)


def test_an_idle_worker_is_updated_at_once() -> None:
    bench = Bench()
    assert bench.ask(Trigger.REFIT, FIRST) == [do.AnnounceDrain(A), do.UpdateWeights(A, 1, "r1")]
    assert bench.happen(Trigger.SUCCEEDED) == [AnswerRequest(FIRST, A, Outcome.DONE)]
    assert (bench.phase, bench.worker.weight_version) == ((WorkerState.ACTIVE, None), "v1")


def test_waking_resumes_memory_and_heals() -> None:
    bench = sleeping()
    bench.fleet.apply(ev.WorkerDied(A, 1, "killed"))
    assert bench.worker.health is Health.QUARANTINED
    assert bench.ask(Trigger.WAKE, SECOND) == [do.ResumeMemory(A, 2)]
    assert bench.happen(Trigger.SUCCEEDED) == [AnswerRequest(SECOND, A, Outcome.DONE)]
    assert (bench.phase, bench.worker.health) == ((WorkerState.ACTIVE, None), Health.HEALTHY)


def test_waking_does_not_lift_an_operators_quarantine() -> None:
    bench = sleeping()
    bench.fleet.apply(ev.QuarantineRequested(A))
    bench.ask(Trigger.WAKE)
    bench.happen(Trigger.SUCCEEDED)
    assert (bench.worker.state, bench.worker.health) == (WorkerState.ACTIVE, Health.QUARANTINED)


@pytest.mark.parametrize("phase", [at for at, row in TABLE.items() if Trigger.LOST in row])
def test_a_worker_whose_command_was_lost_is_quarantined(phase: tuple[WorkerState, Intent | None]) -> None:
    bench = PHASES[phase]()
    answered = bench.happen(Trigger.LOST)
    assert answered == [AnswerRequest(FIRST, A, Outcome.LOST, "gone")]
    assert bench.worker.health is Health.QUARANTINED
    assert bench.worker.vitals.probe_due_s == 1.0


def test_a_late_answer_changes_nothing() -> None:
    bench = commanded(Trigger.SLEEP)()
    late = bench.worker.command_id
    assert late is not None
    bench.happen(Trigger.SUCCEEDED)
    bench.ask(Trigger.WAKE)
    before = snapshot(bench.worker)
    for event in (
        ev.CommandSucceeded(A, late),
        ev.CommandRefused(A, late, "no"),
        ev.CommandLost(A, late, "gone"),
    ):
        assert bench.fleet.apply(event) == []
        assert snapshot(bench.worker) == before


def test_command_ids_are_used_once_in_the_whole_fleet() -> None:
    fleet = Fleet()
    for name in ("a", "b"):
        fleet.add(name)
    sent = [
        command
        for _ in range(2)
        for name in ("a", "b")
        for command in fleet.apply(ev.SleepRequested(worker_id(name)))
        + fleet.apply(ev.CommandSucceeded(worker_id(name), fleet.worker(name).command_id or 0))
        + fleet.apply(ev.WakeRequested(worker_id(name)))
        + fleet.apply(ev.CommandSucceeded(worker_id(name), fleet.worker(name).command_id or 0))
    ]
    ids = [command.command_id for command in sent if isinstance(command, do.ReleaseMemory | do.ResumeMemory)]
    assert ids == list(range(1, 9))


WAITS = [
    (WorkerState.UPDATING, Trigger.HOLD, (WorkerState.DRAINING, Intent.HOLD)),
    (WorkerState.UPDATING, Trigger.SLEEP, (WorkerState.RELEASING, None)),
    (WorkerState.UPDATING, Trigger.REMOVE, (WorkerState.REMOVED, None)),
    (WorkerState.UPDATING, Trigger.WAKE, (WorkerState.ACTIVE, None)),
    (WorkerState.RELEASING, Trigger.HOLD, (WorkerState.SLEEPING, None)),
    (WorkerState.RELEASING, Trigger.REFIT, (WorkerState.SLEEPING, None)),
    (WorkerState.RELEASING, Trigger.REMOVE, (WorkerState.REMOVED, None)),
    (WorkerState.RELEASING, Trigger.WAKE, (WorkerState.RESUMING, None)),
    (WorkerState.RESUMING, Trigger.HOLD, (WorkerState.DRAINING, Intent.HOLD)),
    (WorkerState.RESUMING, Trigger.REFIT, (WorkerState.UPDATING, None)),
    (WorkerState.RESUMING, Trigger.SLEEP, (WorkerState.RELEASING, None)),
    (WorkerState.RESUMING, Trigger.REMOVE, (WorkerState.REMOVED, None)),
]


@pytest.mark.parametrize(("state", "trigger", "then"), WAITS)
def test_what_waited_is_carried_out_when_the_command_has_ended(
    state: WorkerState, trigger: Trigger, then: tuple[WorkerState, Intent | None]
) -> None:
    bench = PHASES[state, None]()
    assert bench.ask(trigger, SECOND) == []
    assert bench.phase == (state, None)
    bench.happen(Trigger.SUCCEEDED)
    assert bench.phase == then


def test_what_waited_in_vain_is_told_of_the_conflict() -> None:
    bench = commanded(Trigger.SLEEP)()
    bench.ask(Trigger.HOLD, SECOND)
    assert bench.happen(Trigger.SUCCEEDED) == [
        AnswerRequest(FIRST, A, Outcome.DONE),
        AnswerRequest(SECOND, A, Outcome.CONFLICT, f"{A} is sleeping, which does not go with hold"),
    ]


def test_another_refit_waits_for_the_one_under_way() -> None:
    bench = commanded(Trigger.REFIT)()
    bench.ask(Trigger.REFIT, SECOND, "r2")
    assert bench.happen(Trigger.SUCCEEDED) == [
        AnswerRequest(FIRST, A, Outcome.DONE),
        do.AnnounceDrain(A),
        do.UpdateWeights(A, 2, "r2"),
    ]


def test_the_same_refit_asked_for_twice_is_one() -> None:
    bench = commanded(Trigger.REFIT)()
    assert bench.ask(Trigger.REFIT, SECOND) == []
    assert bench.happen(Trigger.SUCCEEDED) == [
        AnswerRequest(FIRST, A, Outcome.DONE),
        AnswerRequest(SECOND, A, Outcome.DONE),
    ]


def test_another_refit_while_one_still_drains_is_a_conflict() -> None:
    bench = draining(Trigger.REFIT)()
    before = snapshot(bench.worker)
    with pytest.raises(Conflict):
        bench.ask(Trigger.REFIT, SECOND, "r2")
    assert snapshot(bench.worker) == before


def test_a_removal_that_waits_gives_way_to_nothing() -> None:
    bench = commanded(Trigger.SLEEP)()
    bench.ask(Trigger.REMOVE, SECOND)
    before = snapshot(bench.worker)
    for trigger in (Trigger.WAKE, Trigger.HOLD, Trigger.REFIT):
        with pytest.raises(Conflict):
            bench.ask(trigger, THIRD)
        assert snapshot(bench.worker) == before


def test_a_removal_pushes_what_waits_aside() -> None:
    bench = commanded(Trigger.SLEEP)()
    bench.ask(Trigger.WAKE, SECOND)
    assert bench.ask(Trigger.REMOVE, THIRD) == [AnswerRequest(SECOND, A, Outcome.SUPERSEDED)]


def test_waking_calls_off_a_sleep_that_waits() -> None:
    bench = commanded(Trigger.SLEEP, Trigger.WAKE)()
    bench.ask(Trigger.SLEEP, SECOND)
    assert bench.ask(Trigger.WAKE, THIRD) == [AnswerRequest(SECOND, A, Outcome.SUPERSEDED)]
    assert bench.happen(Trigger.SUCCEEDED) == [
        AnswerRequest(FIRST, A, Outcome.DONE),
        AnswerRequest(THIRD, A, Outcome.DONE),
    ]
    assert bench.phase == (WorkerState.ACTIVE, None)


def test_sleeping_calls_off_a_waking_that_waits() -> None:
    bench = commanded(Trigger.SLEEP)()
    bench.ask(Trigger.WAKE, SECOND)
    assert bench.ask(Trigger.SLEEP, THIRD) == [AnswerRequest(SECOND, A, Outcome.SUPERSEDED)]
    bench.happen(Trigger.SUCCEEDED)
    assert bench.phase == (WorkerState.SLEEPING, None)


def test_force_acts_at_once_whatever_the_worker_does() -> None:
    bench = commanded(Trigger.REFIT)()
    bench.ask(Trigger.SLEEP, SECOND)
    assert bench.ask(Trigger.FORCE_REMOVE, THIRD) == [
        AnswerRequest(FIRST, A, Outcome.SUPERSEDED),
        AnswerRequest(SECOND, A, Outcome.SUPERSEDED),
        AnswerRequest(THIRD, A, Outcome.DONE),
        do.CancelLeases(A, "it was removed"),
        do.ForgetWorker(A, 1, bench.worker.url),
    ]
    assert bench.fleet.pool.get(A) is None


def test_a_worker_is_removed_when_its_work_has_ended() -> None:
    bench = Bench()
    asker = bench.fleet.ask()
    assert bench.ask(Trigger.REMOVE, FIRST) == [do.AnnounceDrain(A)]
    assert bench.fleet.end(asker) == [
        AnswerRequest(FIRST, A, Outcome.DONE),
        do.ForgetWorker(A, 1, bench.worker.url),
    ]


def test_a_removal_whose_drain_limit_passes_cancels_the_work_and_removes() -> None:
    bench = draining(Trigger.REMOVE)()
    assert bench.happen(Trigger.DRAIN_EXPIRED) == [
        AnswerRequest(FIRST, A, Outcome.DONE, "the drain limit has passed"),
        do.CancelLeases(A, "it was removed"),
        do.ForgetWorker(A, 1, bench.worker.url),
    ]


@pytest.mark.parametrize("trigger", [Trigger.HOLD, Trigger.REFIT, Trigger.SLEEP])
def test_a_drain_whose_limit_passes_fails_and_the_worker_serves_again(trigger: Trigger) -> None:
    bench = draining(trigger)()
    assert bench.fleet.tick(DRAIN_LIMIT_S - 0.001) == []
    assert bench.phase[0] is WorkerState.DRAINING
    assert bench.fleet.tick(0.001) == [AnswerRequest(FIRST, A, Outcome.EXPIRED, "the drain limit has passed")]
    assert bench.phase == (WorkerState.ACTIVE, None)


def test_a_drain_limit_can_be_given() -> None:
    bench = Bench()
    bench.fleet.ask()
    bench.fleet.apply(ev.SleepRequested(A, drain_limit_s=5.0))
    assert bench.fleet.pool.next_deadline_s() == 5.0
    bench.fleet.tick(5.0)
    assert bench.phase == (WorkerState.ACTIVE, None)
    assert bench.fleet.pool.next_deadline_s() is None


def test_a_stronger_intent_has_a_limit_of_its_own() -> None:
    bench = Bench()
    bench.fleet.ask()
    bench.fleet.apply(ev.HoldRequested(A, drain_limit_s=5.0))
    bench.fleet.tick(4.0)
    bench.fleet.apply(ev.SleepRequested(A, drain_limit_s=10.0))
    assert bench.fleet.pool.next_deadline_s() == 14.0


def test_a_worker_held_without_work_is_held_for_good() -> None:
    bench = Bench()
    assert bench.ask(Trigger.HOLD, FIRST) == [do.AnnounceDrain(A), AnswerRequest(FIRST, A, Outcome.DONE)]
    assert bench.fleet.tick(10 * DRAIN_LIMIT_S) == []
    assert bench.phase == (WorkerState.DRAINING, Intent.HOLD)
    assert bench.ask(Trigger.HOLD, SECOND) == [AnswerRequest(SECOND, A, Outcome.DONE)]
    assert bench.ask(Trigger.WAKE, THIRD) == [AnswerRequest(THIRD, A, Outcome.DONE)]
    assert bench.phase == (WorkerState.ACTIVE, None)


def test_the_time_in_a_state_begins_with_the_state() -> None:
    bench = Bench()
    bench.fleet.ask()
    bench.fleet.tick(3.0)
    bench.ask(Trigger.HOLD)
    bench.fleet.tick(3.0)
    bench.ask(Trigger.SLEEP)
    assert bench.worker.since_s == 3.0
