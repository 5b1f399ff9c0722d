"""What is heard of workers: probes, work, deaths, restarts and the silent connection."""

from __future__ import annotations

import pytest

from core.fleet import Fleet, snapshot, worker_id
from core.steps import probe_failed, put_to_sleep, refit, succeed
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.health import HealthLimits, ProbeFailure
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.weights import Currency, Unversioned
from sglang_diffusion_routing.core.worker import Capability, RequestId, Worker

pytestmark = pytest.mark.core

A, B = worker_id("a"), worker_id("b")
ME = RequestId("me")


# Probes and quarantine


def test_the_first_answer_opens_a_sentinel_and_later_ones_do_not() -> None:
    fleet = Fleet()
    fleet.register("a")
    assert fleet.answer("a") == [do.OpenSentinel(A, 1)]
    assert fleet.answer("a") == []


def test_a_worker_that_never_answered_joins_when_it_does() -> None:
    fleet = Fleet()
    worker = fleet.register("a")
    probe_failed(fleet, "a", ProbeFailure.REFUSED)
    seen = [worker.status.value]
    fleet.answer("a")
    assert [*seen, worker.status.value] == ["quarantined", "active"]


@pytest.mark.parametrize("failure", ProbeFailure)
def test_three_failures_in_a_row_quarantine_an_idle_worker(failure: ProbeFailure) -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    seen = []
    for _ in range(3):
        probe_failed(fleet, "a", failure)
        seen.append(worker.health)
    assert seen == [Health.HEALTHY, Health.HEALTHY, Health.QUARANTINED]


@pytest.mark.parametrize(
    ("failure", "cancels"),
    [
        (ProbeFailure.REFUSED, True),
        (ProbeFailure.ENGINE_DIED, True),
        (ProbeFailure.BAD_ANSWER, False),
        (ProbeFailure.TIMED_OUT, False),
    ],
)
def test_work_is_cancelled_only_where_it_cannot_end_by_itself(failure: ProbeFailure, *, cancels: bool) -> None:
    fleet = Fleet()
    fleet.add("a")
    told = [probe_failed(fleet, "a", failure) for _ in range(3)]
    cancelled = [do.CancelLeases(A, f"its probe failed: {failure.value}")] if cancels else []
    assert told == [[], [], cancelled]


def test_a_busy_workers_silence_is_no_failure_until_its_grace_has_passed() -> None:
    fleet = Fleet(health=HealthLimits(busy_grace_s=100.0, threshold=1))
    worker = fleet.add("a")
    for _ in range(10):
        assert probe_failed(fleet, "a", ProbeFailure.TIMED_OUT, in_flight=1) == []
        fleet.now_s += 10.0
    assert (worker.health, worker.vitals.failures) == (Health.HEALTHY, 0)
    assert probe_failed(fleet, "a", ProbeFailure.TIMED_OUT, in_flight=1) == [
        do.CancelLeases(A, "its probe failed: timed out")
    ]
    assert worker.health is Health.QUARANTINED


def test_a_worker_that_finishes_work_is_not_silent() -> None:
    fleet = Fleet(health=HealthLimits(busy_grace_s=100.0, threshold=1))
    worker = fleet.add("a")
    probe_failed(fleet, "a", ProbeFailure.TIMED_OUT, in_flight=1)
    fleet.now_s = 150.0
    probe_failed(fleet, "a", ProbeFailure.TIMED_OUT, in_flight=1, answered_s=60.0)
    assert worker.health is Health.HEALTHY


@pytest.mark.parametrize("command", ["updating", "releasing", "resuming"])
def test_a_worker_that_carries_out_a_command_may_be_silent(command: str) -> None:
    fleet = Fleet(health=HealthLimits(threshold=1))
    worker = fleet.add("a")
    if command == "updating":
        refit(fleet, "a", "v1")
    else:
        fleet.apply(ev.SleepRequested(A))
    if command == "resuming":
        succeed(fleet, "a")
        fleet.apply(ev.WakeRequested(A))
    probe_failed(fleet, "a", ProbeFailure.TIMED_OUT)
    assert worker.status.value == command


def test_an_idle_workers_silence_is_a_failure() -> None:
    fleet = Fleet(health=HealthLimits(threshold=1))
    worker = fleet.add("a")
    probe_failed(fleet, "a", ProbeFailure.TIMED_OUT)
    assert worker.health is Health.QUARANTINED


@pytest.mark.parametrize("failure", [ProbeFailure.REFUSED, ProbeFailure.BAD_ANSWER, ProbeFailure.ENGINE_DIED])
def test_only_silence_is_excused_by_being_busy(failure: ProbeFailure) -> None:
    fleet = Fleet(health=HealthLimits(threshold=1))
    worker = fleet.add("a")
    probe_failed(fleet, "a", failure, in_flight=2)
    assert worker.health is Health.QUARANTINED


@pytest.mark.parametrize("failure", [ProbeFailure.TIMED_OUT, ProbeFailure.BAD_ANSWER])
def test_what_a_sleeper_does_does_not_quarantine_it(failure: ProbeFailure) -> None:
    fleet = Fleet(health=HealthLimits(threshold=1))
    worker = fleet.add("a")
    fleet.add("b")
    put_to_sleep(fleet, "a")
    for _ in range(5):
        probe_failed(fleet, "a", failure)
    fleet.apply(ev.WorkKeptFailing(A, 1))
    assert (worker.status.value, worker.vitals.failures) == ("sleeping", 0)


def test_a_sleeper_that_nobody_answers_for_is_quarantined() -> None:
    fleet = Fleet(health=HealthLimits(threshold=1))
    worker = fleet.add("a")
    put_to_sleep(fleet, "a")
    probe_failed(fleet, "a", ProbeFailure.REFUSED)
    assert (worker.state, worker.health) == (WorkerState.SLEEPING, Health.QUARANTINED)


def test_an_operators_quarantine_is_sticky_and_its_work_goes_on() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    assert fleet.apply(ev.QuarantineRequested(A)) == []
    fleet.answer("a")
    assert worker.status.value == "quarantined"
    assert fleet.apply(ev.QuarantineLifted(A)) == [do.ProbeWorker(A, 1)]
    assert worker.status.value == "joining"
    fleet.answer("a")
    assert worker.status.value == "active"


def test_a_worker_in_an_operators_quarantine_that_dies_has_its_work_cancelled() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.apply(ev.QuarantineRequested(A))
    told = [probe_failed(fleet, "a", ProbeFailure.REFUSED, in_flight=1) for _ in range(3)]
    assert told == [[], [], [do.CancelLeases(A, "its probe failed: refused")]]


def test_lifting_a_quarantine_that_is_not_there_changes_nothing() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    before = snapshot(worker)
    assert (fleet.apply(ev.QuarantineLifted(A)), snapshot(worker)) == ([], before)


# News from work


def test_a_broken_connection_asks_for_a_probe_at_once() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    assert fleet.apply(ev.WorkFailed(A, 1, None)) == [do.ProbeWorker(A, 1)]
    assert (worker.vitals.failures, worker.vitals.probe_due_s) == (0, 0.0)
    assert fleet.apply(ev.WorkFailed(A, 1, None)) == []


def test_a_refused_connection_is_a_failure_at_once() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    assert fleet.apply(ev.WorkFailed(A, 1, ProbeFailure.REFUSED)) == [do.ProbeWorker(A, 1)]
    assert worker.vitals.failures == 1
    fleet.apply(ev.WorkFailed(A, 1, ProbeFailure.REFUSED))
    assert fleet.apply(ev.WorkFailed(A, 1, ProbeFailure.REFUSED)) == [
        do.CancelLeases(A, "its work failed: refused"),
    ]
    assert worker.health is Health.QUARANTINED


def test_a_worker_that_swallows_work_is_quarantined_and_not_asked_again_at_once() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.add("b")
    assert fleet.apply(ev.WorkKeptFailing(A, 1)) == []
    assert (worker.health, worker.vitals.probe_due_s) == (Health.QUARANTINED, 15.0)
    fleet.answer("a")
    assert worker.health is Health.HEALTHY


def test_the_last_routable_worker_is_kept_however_it_fails() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.add("b")
    fleet.apply(ev.HoldRequested(B))
    fleet.apply(ev.WorkKeptFailing(A, 1))
    assert worker.health is Health.HEALTHY


def test_a_worker_that_answers_sleeping_sleeps() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.WorkFoundAsleep(A, 1, granted_s=0.0))
    assert worker.status.value == "sleeping"


def test_a_worker_that_others_put_to_sleep_is_not_taken_for_asleep() -> None:
    fleet = Fleet()
    fleet.pool = Pool(hands_off=True)
    worker = fleet.add("a")
    fleet.apply(ev.WorkFoundAsleep(A, 1, granted_s=0.0))
    assert worker.status.value == "active"
    put_to_sleep(fleet, "a")
    assert worker.status.value == "sleeping"


def test_an_answer_from_before_the_last_waking_puts_nobody_to_sleep() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    put_to_sleep(fleet, "a")
    fleet.now_s = 5.0
    fleet.apply(ev.WakeRequested(A))
    succeed(fleet, "a")
    fleet.apply(ev.WorkFoundAsleep(A, 1, granted_s=4.9))
    assert worker.status.value == "active"


# Deaths, restarts and the sentinel


def test_a_cut_sentinel_is_only_a_cut_while_other_connections_are_open() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    refit(fleet, "a", "v1")
    succeed(fleet, "a")
    assert fleet.apply(ev.SentinelLost(A, 1, connections=1)) == [do.ProbeWorker(A, 1)]
    assert (worker.health, worker.loaded) == (Health.HEALTHY, "v1")
    assert fleet.answer("a") == [do.OpenSentinel(A, 1)]


def test_a_lost_sentinel_may_mean_a_restart_and_the_next_probe_decides() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    refit(fleet, "a", "v1")
    succeed(fleet, "a")
    assert fleet.apply(ev.SentinelLost(A, 1, connections=0)) == [do.ProbeWorker(A, 1)]
    assert (worker.status.value, worker.loaded, worker.currency) == ("joining", Unversioned.UNCHECKED, Currency.STALE)
    assert fleet.answer("a") == [do.OpenSentinel(A, 1)]
    assert worker.status.value == "stale"


def test_a_possible_restart_does_not_clear_a_suspicion() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    refit(fleet, "a", "v1")
    fleet.apply(ev.CommandLost(A, 1, "gone"))
    fleet.apply(ev.SentinelLost(A, 1, connections=0))
    assert worker.loaded is Unversioned.SUSPECT


def test_a_quarantined_worker_that_loses_its_sentinel_stays_so() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.QuarantineRequested(A))
    assert fleet.apply(ev.SentinelLost(A, 1, connections=0)) == []
    assert worker.status.value == "quarantined"


def test_a_refused_probe_after_a_lost_sentinel_cancels_the_work_at_once() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.apply(ev.SentinelLost(A, 1, connections=0))
    assert probe_failed(fleet, "a", ProbeFailure.REFUSED, in_flight=1) == [
        do.CancelLeases(A, "its probe failed: refused")
    ]


def test_a_dead_workers_work_is_cancelled_and_it_has_what_it_starts_with() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    refit(fleet, "a", "v1")
    succeed(fleet, "a")
    assert fleet.apply(ev.WorkerDied(A, 1, "killed")) == [do.CancelLeases(A, "killed")]
    assert (worker.health, worker.loaded, worker.capability) == (
        Health.QUARANTINED,
        Unversioned.UNCHECKED,
        Capability(),
    )
    assert worker.vitals.probe_due_s == 1.0


def test_a_restarted_worker_is_asked_everything_anew() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    refit(fleet, "a", "v1")
    fleet.apply(ev.CommandLost(A, 1, "gone"))
    assert fleet.apply(ev.WorkerRestarted(A, 1)) == [do.ProbeWorker(A, 1), do.CancelLeases(A, "it was restarted")]
    assert (worker.status.value, worker.loaded, worker.capability) == ("joining", Unversioned.UNCHECKED, Capability())


def test_a_restart_does_not_lift_an_operators_quarantine() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.QuarantineRequested(A))
    fleet.apply(ev.WorkerRestarted(A, 1))
    assert (worker.health, worker.vitals.sticky) == (Health.QUARANTINED, True)


# While the fleet sleeps


@pytest.mark.parametrize("lost", ["release", "resume"])
def test_a_worker_that_may_be_awake_is_put_to_sleep_as_soon_as_it_answers(lost: str) -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.SleepRequested(A))
    if lost == "resume":
        succeed(fleet, "a")
        fleet.apply(ev.WakeRequested(A))
    assert worker.command_id is not None
    fleet.apply(ev.CommandLost(A, worker.command_id, "gone"))
    assert (worker.state, worker.health) == (WorkerState.SLEEPING, Health.QUARANTINED)
    assert do.ReleaseMemory in map(type, fleet.answer("a"))
    succeed(fleet, "a")
    assert worker.status.value == "sleeping"
    fleet.apply(ev.WakeRequested(A))
    succeed(fleet, "a")
    assert worker.status.value == "active"


def joined_a_sleeping_fleet() -> tuple[Fleet, Worker]:
    """Worker a sleeps, and b has been named since."""
    fleet = Fleet()
    fleet.add("a")
    put_to_sleep(fleet, "a")
    return fleet, fleet.register("b")


def test_a_worker_that_joins_a_sleeping_fleet_is_put_to_sleep_first() -> None:
    fleet, worker = joined_a_sleeping_fleet()
    assert not fleet.pool.is_routable(worker)
    fleet.learn("b")
    assert fleet.answer("b") == [do.OpenSentinel(B, 2), do.AnnounceDrain(B), do.ReleaseMemory(B, 2)]
    succeed(fleet, "b")
    assert worker.status.value == "sleeping"


def test_a_worker_whose_fleet_has_woken_in_the_meantime_stays_awake() -> None:
    fleet, worker = joined_a_sleeping_fleet()
    fleet.apply(ev.WakeRequested(A))
    fleet.answer("b")
    assert worker.status.value == "active"


def test_a_worker_that_was_to_be_put_to_sleep_first_can_be_woken() -> None:
    fleet, worker = joined_a_sleeping_fleet()
    fleet.apply(ev.WakeRequested(B))
    fleet.answer("b")
    assert worker.status.value == "active"


@pytest.mark.parametrize(
    "event",
    [ev.WorkerDied(A, 1, "killed"), ev.WorkerRestarted(A, 1), ev.SentinelLost(A, 1, 0)],
)
def test_a_sleeper_whose_process_was_replaced_is_put_to_sleep_again(event: ev.Event) -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    put_to_sleep(fleet, "a")
    fleet.apply(event)
    assert worker.state is WorkerState.SLEEPING
    assert do.ReleaseMemory(A, 2) in fleet.answer("a")
    succeed(fleet, "a")
    assert worker.status.value == "sleeping"


def test_a_sleeper_whose_process_was_replaced_can_be_woken() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    put_to_sleep(fleet, "a")
    fleet.apply(ev.WorkerRestarted(A, 1))
    assert fleet.apply(ev.WakeRequested(A)) == [do.ResumeMemory(A, 2)]
    fleet.learn("a")
    fleet.answer("a")
    succeed(fleet, "a")
    assert worker.status.value == "active"
