"""Events in, commands out."""

import pytest

from core.fleet import T2I, T2V, Fleet, snapshot, url, worker_id
from core.steps import put_to_sleep, refit, succeed
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.commands import AnswerRequest, Outcome
from sglang_diffusion_routing.core.health import ProbeFailure, Vitals
from sglang_diffusion_routing.core.state import Health, Intent, WorkerState
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.core.worker import RequestId, Worker
from sglang_diffusion_routing.errors import Conflict, UnknownWorker

pytestmark = pytest.mark.core

A, B = worker_id("a"), worker_id("b")
ME = RequestId("me")


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
