"""Events in, commands out."""

import pytest

from core.fleet import T2I, T2V, Fleet, snapshot, url, worker_id
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.commands import AnswerRequest, Outcome
from sglang_diffusion_routing.core.health import HealthLimits, ProbeFailure, Vitals
from sglang_diffusion_routing.core.state import Health, Intent, WorkerState
from sglang_diffusion_routing.core.weights import Currency, Unversioned
from sglang_diffusion_routing.core.worker import Capability, RequestId, Worker
from sglang_diffusion_routing.errors import Conflict, UnknownWorker

pytestmark = pytest.mark.core

A, B = worker_id("a"), worker_id("b")
ME = RequestId("me")


def probe_failed(
    fleet: Fleet, name: str, failure: ProbeFailure, in_flight: int = 0, answered_s: float | None = None
) -> list[do.Command]:
    incarnation = fleet.worker(name).incarnation
    return fleet.apply(ev.ProbeFailed(worker_id(name), incarnation, failure, in_flight, answered_s))


def refit(fleet: Fleet, name: str, version: str) -> None:
    fleet.apply(ev.RefitRequested(worker_id(name), f"refit-{version}", version))


def succeed(fleet: Fleet, name: str) -> list[do.Command]:
    command_id = fleet.worker(name).command_id
    assert command_id is not None
    return fleet.apply(ev.CommandSucceeded(worker_id(name), command_id))


def put_to_sleep(fleet: Fleet, name: str) -> None:
    fleet.apply(ev.SleepRequested(worker_id(name)))
    succeed(fleet, name)


# Registration


def test_a_new_worker_is_probed_at_once() -> None:
    fleet = Fleet()
    assert fleet.apply(ev.WorkerRegistered(url("a"), (("zone", "z"),), 3)) == [do.ProbeWorker(A, 1)]
    worker = fleet.worker("a")
    assert (worker.worker_id, worker.url, worker.incarnation) == (A, url("a"), 1)
    assert (worker.state, worker.health, worker.status.value) == (WorkerState.ACTIVE, Health.UNKNOWN, "joining")
    assert (worker.labels, worker.max_concurrency) == ((("zone", "z"),), 3)


@pytest.mark.parametrize("happened", ["asleep", "quarantined", "held", "stale"])
def test_registering_twice_is_no_error_and_revives_nothing(happened: str) -> None:
    fleet = Fleet()
    worker = fleet.add("a", zone="z")
    fleet.add("b")
    match happened:
        case "asleep":
            put_to_sleep(fleet, "a")
        case "quarantined":
            fleet.apply(ev.QuarantineRequested(A))
        case "held":
            fleet.apply(ev.HoldRequested(A))
        case "stale":
            refit(fleet, "b", "v1")
            succeed(fleet, "b")
    before, status = worker.vitals, worker.status
    assert fleet.apply(ev.WorkerRegistered(url("a"), (("zone", "other"),), 9)) == [do.ProbeWorker(A, 1)]
    assert fleet.worker("a") is worker
    assert (worker.status, worker.labels, worker.max_concurrency) == (status, (("zone", "z"),), None)
    assert worker.vitals == Vitals(before.health, before.sticky, before.failures, None, 0.0, answered=True)


def test_a_worker_registered_anew_is_another() -> None:
    fleet = Fleet()
    old = fleet.add("a")
    fleet.apply(ev.SleepRequested(A))
    fleet.apply(ev.RemovalRequested(A, force=True))
    new = fleet.register("a")
    assert (old.state, new.state, new.health) == (WorkerState.REMOVED, WorkerState.ACTIVE, Health.UNKNOWN)
    assert new.incarnation == 2


def test_news_of_an_earlier_incarnation_changes_nothing() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.apply(ev.RemovalRequested(A, force=True))
    worker = fleet.register("a")
    before = snapshot(worker)
    for event in (
        ev.CapabilityLearned(A, 1, T2I),
        ev.ProbeSucceeded(A, 1),
        ev.ProbeFailed(A, 1, ProbeFailure.REFUSED),
        ev.WorkFailed(A, 1, ProbeFailure.REFUSED),
        ev.WorkKeptFailing(A, 1),
        ev.WorkFoundAsleep(A, 1, 0.0),
        ev.SentinelLost(A, 1, 0),
        ev.WorkerDied(A, 1, "killed"),
        ev.WorkerRestarted(A, 1),
        ev.WorkerDrained(A, 1),
        ev.CommandSucceeded(A, 1),
    ):
        assert (fleet.apply(event), snapshot(worker)) == ([], before)


@pytest.mark.parametrize(
    "event",
    [
        ev.RemovalRequested(A),
        ev.HoldRequested(A),
        ev.RefitRequested(A, "r", "v"),
        ev.SleepRequested(A),
        ev.WakeRequested(A),
        ev.QuarantineRequested(A),
        ev.QuarantineLifted(A),
        ev.MaxConcurrencySet(A, 1),
        ev.LabelsSet(A, ()),
    ],
)
def test_nothing_can_be_asked_of_a_worker_that_is_not_registered(event: ev.Event) -> None:
    with pytest.raises(UnknownWorker):
        Fleet().apply(event)


def test_registering_a_worker_that_drains_for_its_removal_calls_the_removal_off() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.ask()
    fleet.apply(ev.RemovalRequested(A, request=ME))
    assert fleet.apply(ev.WorkerRegistered(url("a"))) == [
        AnswerRequest(ME, A, Outcome.SUPERSEDED),
        do.ProbeWorker(A, 1),
    ]
    assert (fleet.worker("a"), worker.status.value) == (worker, "active")


def test_registering_a_worker_whose_removal_waits_calls_the_removal_off() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.SleepRequested(A))
    fleet.apply(ev.RemovalRequested(A, request=ME))
    assert fleet.apply(ev.WorkerRegistered(url("a"))) == [
        AnswerRequest(ME, A, Outcome.SUPERSEDED),
        do.ProbeWorker(A, 1),
    ]
    succeed(fleet, "a")
    assert worker.state is WorkerState.SLEEPING


# Settings of one worker


def test_a_cap_and_labels_can_be_set() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.MaxConcurrencySet(A, 5))
    fleet.apply(ev.LabelsSet(A, (("group", "g"),)))
    assert (worker.max_concurrency, worker.labels, worker.weight_group) == (5, (("group", "g"),), "g")


def test_a_label_moves_a_worker_to_a_group_whose_weights_it_does_not_have() -> None:
    fleet = Fleet()
    fleet.add("a", group="g")
    other = fleet.add("b")
    refit(fleet, "a", "v1")
    succeed(fleet, "a")
    assert other.status.value == "active"
    fleet.apply(ev.LabelsSet(B, (("group", "g"),)))
    assert other.status.value == "stale"


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


def test_a_worker_that_joins_a_sleeping_fleet_is_put_to_sleep_first() -> None:
    fleet = Fleet()
    fleet.add("a")
    put_to_sleep(fleet, "a")
    worker = fleet.register("b")
    assert not fleet.pool.is_routable(worker)
    fleet.learn("b")
    assert fleet.answer("b") == [do.OpenSentinel(B, 2), do.AnnounceDrain(B), do.ReleaseMemory(B, 2)]
    succeed(fleet, "b")
    assert worker.status.value == "sleeping"


def test_a_worker_whose_fleet_has_woken_in_the_meantime_stays_awake() -> None:
    fleet = Fleet()
    fleet.add("a")
    put_to_sleep(fleet, "a")
    worker = fleet.register("b")
    fleet.apply(ev.WakeRequested(A))
    fleet.answer("b")
    assert worker.status.value == "active"


def test_a_worker_that_was_to_be_put_to_sleep_first_can_be_woken() -> None:
    fleet = Fleet()
    fleet.add("a")
    put_to_sleep(fleet, "a")
    worker = fleet.register("b")
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


# Weights


def test_the_first_success_makes_the_rest_of_the_group_stale_until_theirs() -> None:
    fleet = Fleet()
    first, second, other = fleet.add("a"), fleet.add("b"), fleet.add("c", T2V)
    refit(fleet, "a", "v1")
    succeed(fleet, "a")
    assert [w.status.value for w in (first, second, other)] == ["active", "stale", "active"]
    assert second in fleet.pool.changed
    refit(fleet, "b", "v1")
    succeed(fleet, "b")
    assert [w.weight_version for w in (first, second, other)] == ["v1", "v1", "0"]
    assert second.status.value == "active"


@pytest.mark.parametrize(
    ("unchanged", "status", "version"), [(True, "active", "0"), (False, "suspect", None), (None, "suspect", None)]
)
def test_a_refusal_costs_nothing_only_if_nothing_has_changed(
    unchanged: bool | None, status: str, version: str | None
) -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.RefitRequested(A, "r1", "v1", ME))
    assert fleet.apply(ev.CommandRefused(A, 1, "no such path", unchanged)) == [
        AnswerRequest(ME, A, Outcome.REFUSED, "no such path")
    ]
    assert (worker.status.value, worker.weight_version) == (status, version)


def test_what_a_refusal_leaves_is_current_as_before() -> None:
    fleet = Fleet()
    workers = [fleet.add(name) for name in ("a", "b")]
    for name in ("a", "b"):
        refit(fleet, name, "v2")
    succeed(fleet, "a")
    fleet.apply(ev.CommandRefused(B, 2, "no", unchanged=True))
    assert [(w.status.value, w.weight_version) for w in workers] == [("active", "v2"), ("stale", "0")]


def test_a_lost_refit_leaves_a_suspect_that_the_next_refit_clears() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    refit(fleet, "a", "v1")
    fleet.apply(ev.CommandLost(A, 1, "gone"))
    assert (worker.status.value, worker.weight_version) == ("quarantined", None)
    fleet.answer("a")
    assert worker.status.value == "suspect"
    refit(fleet, "a", "v2")
    succeed(fleet, "a")
    assert (worker.status.value, worker.weight_version) == ("active", "v2")


def test_a_command_that_is_no_refit_says_nothing_about_weights() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.SleepRequested(A))
    fleet.apply(ev.CommandRefused(A, 1, "no"))
    fleet.apply(ev.SleepRequested(A))
    fleet.apply(ev.CommandLost(A, 2, "gone"))
    assert (worker.state, worker.loaded) == (WorkerState.SLEEPING, Unversioned.BASE)


def test_a_worker_that_has_not_said_what_it_serves_cannot_be_refit() -> None:
    fleet = Fleet()
    worker = fleet.register("a")
    fleet.answer("a")
    before = snapshot(worker)
    with pytest.raises(Conflict, match="has not said yet what it serves"):
        refit(fleet, "a", "v1")
    assert snapshot(worker) == before


def test_a_worker_that_joins_after_a_refit_is_stale_before_it_says_what_it_serves() -> None:
    fleet = Fleet()
    fleet.add("a")
    refit(fleet, "a", "v1")
    succeed(fleet, "a")
    late = fleet.register("b")
    fleet.apply(ev.HoldRequested(A))
    assert not fleet.pool.is_routable(late)
    fleet.learn("b", T2V)
    assert fleet.pool.is_routable(late)


def test_a_held_worker_is_drained_by_hand_and_not_fenced() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.ask()
    fleet.apply(ev.HoldRequested(A))
    assert (worker.state, worker.intent, worker.status.value) == (WorkerState.DRAINING, Intent.HOLD, "draining")


def test_a_worker_is_the_same_record_until_it_is_removed() -> None:
    fleet = Fleet()
    worker: Worker = fleet.add("a")
    put_to_sleep(fleet, "a")
    fleet.apply(ev.WakeRequested(A))
    succeed(fleet, "a")
    assert fleet.worker("a") is worker
