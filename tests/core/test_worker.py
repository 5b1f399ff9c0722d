"""The record of a worker: what it makes, what is shown of it, what it is to work."""

import itertools

import pytest

from core.fleet import url, worker_id
from sglang_diffusion_routing.core.health import Vitals
from sglang_diffusion_routing.core.state import Health, Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.weights import Currency, Unversioned
from sglang_diffusion_routing.core.worker import (
    Capability,
    Order,
    Standing,
    Worker,
    WorkerStatus,
    refused_address,
    standing,
)

pytestmark = pytest.mark.core


def worker(
    state: WorkerState = WorkerState.ACTIVE,
    intent: Intent | None = None,
    health: Health = Health.HEALTHY,
    currency: Currency = Currency.CURRENT,
    waiting: Trigger | None = None,
    *,
    sleep_first: bool = False,
) -> Worker:
    return Worker(
        worker_id("a"),
        url("a"),
        1,
        registered_s=0.0,
        state=state,
        intent=intent,
        vitals=Vitals(health),
        currency=currency,
        next_order=None if waiting is None else Order(waiting),
        sleep_first=sleep_first,
    )


@pytest.mark.parametrize(
    ("task_types", "images", "video"),
    [
        (None, None, None),
        ((), False, False),
        (("T2I",), True, False),
        (("I2I",), True, False),
        (("TI2I",), True, False),
        (("t2i",), True, False),
        (("T2V",), False, True),
        (("TI2V", "I2V"), False, True),
        (("I2M",), False, True),
        (("VLA_ACTION",), False, True),
        (("T2I", "T2V"), True, True),
    ],
)
def test_a_worker_makes_images_by_a_task_that_ends_in_one_and_video_by_any_other(
    task_types: tuple[str, ...] | None, images: bool | None, video: bool | None
) -> None:
    capability = Capability(task_types)
    assert (capability.makes_images, capability.makes_video) == (images, video)


def shown_in_order() -> list[tuple[Worker, WorkerStatus]]:
    """Workers to which each status and everything after it applies, as far as facts can be had together."""
    sick, unasked = Health.QUARANTINED, Health.UNKNOWN
    suspect, stale = Currency.SUSPECT, Currency.STALE
    return [
        (worker(WorkerState.REMOVED, None, sick, suspect), WorkerStatus.REMOVED),
        (worker(WorkerState.DRAINING, Intent.HOLD, sick, suspect), WorkerStatus.DRAINING),
        (worker(WorkerState.UPDATING, None, sick, suspect), WorkerStatus.QUARANTINED),
        (worker(WorkerState.SLEEPING, None, sick, suspect), WorkerStatus.QUARANTINED),
        (worker(WorkerState.ACTIVE, None, sick, suspect), WorkerStatus.QUARANTINED),
        (worker(WorkerState.UPDATING, None, unasked, suspect), WorkerStatus.UPDATING),
        (worker(WorkerState.RELEASING, None, unasked, suspect), WorkerStatus.RELEASING),
        (worker(WorkerState.RESUMING, None, unasked, suspect), WorkerStatus.RESUMING),
        (worker(WorkerState.SLEEPING, None, unasked, suspect), WorkerStatus.SLEEPING),
        (worker(WorkerState.ACTIVE, None, unasked, suspect), WorkerStatus.JOINING),
        (worker(currency=suspect), WorkerStatus.SUSPECT),
        (worker(currency=stale), WorkerStatus.STALE),
        (worker(), WorkerStatus.ACTIVE),
    ]


@pytest.mark.parametrize(("shown", "status"), shown_in_order())
def test_the_status_is_the_first_that_applies(shown: Worker, status: WorkerStatus) -> None:
    assert shown.status is status


def test_the_statuses_are_listed_in_the_order_in_which_they_apply() -> None:
    assert [status.value for status in WorkerStatus] == [
        "removed",
        "draining",
        "quarantined",
        "updating",
        "releasing",
        "resuming",
        "sleeping",
        "joining",
        "suspect",
        "stale",
        "active",
    ]


# What a healthy worker with current weights is to work, by its phase and by what waits behind its command.
STANDINGS: dict[tuple[WorkerState, Intent | None, Trigger | None], Standing] = {
    (WorkerState.ACTIVE, None, None): Standing.ROUTABLE,
    (WorkerState.DRAINING, Intent.HOLD, None): Standing.AWAY,
    (WorkerState.DRAINING, Intent.REFIT, None): Standing.COMING,
    (WorkerState.DRAINING, Intent.SLEEP, None): Standing.AWAY,
    (WorkerState.DRAINING, Intent.REMOVE, None): Standing.AWAY,
    (WorkerState.UPDATING, None, None): Standing.COMING,
    (WorkerState.UPDATING, None, Trigger.WAKE): Standing.COMING,
    (WorkerState.UPDATING, None, Trigger.REFIT): Standing.COMING,
    (WorkerState.UPDATING, None, Trigger.HOLD): Standing.AWAY,
    (WorkerState.UPDATING, None, Trigger.SLEEP): Standing.AWAY,
    (WorkerState.UPDATING, None, Trigger.REMOVE): Standing.AWAY,
    (WorkerState.RELEASING, None, None): Standing.AWAY,
    (WorkerState.RELEASING, None, Trigger.WAKE): Standing.COMING,
    (WorkerState.RELEASING, None, Trigger.REFIT): Standing.AWAY,
    (WorkerState.RELEASING, None, Trigger.REMOVE): Standing.AWAY,
    (WorkerState.SLEEPING, None, None): Standing.ASLEEP,
    (WorkerState.RESUMING, None, None): Standing.COMING,
    (WorkerState.RESUMING, None, Trigger.REFIT): Standing.COMING,
    (WorkerState.RESUMING, None, Trigger.HOLD): Standing.AWAY,
    (WorkerState.RESUMING, None, Trigger.SLEEP): Standing.AWAY,
    (WorkerState.RESUMING, None, Trigger.REMOVE): Standing.AWAY,
    (WorkerState.REMOVED, None, None): Standing.AWAY,
}


@pytest.mark.parametrize(("phase", "expected"), STANDINGS.items())
def test_only_what_comes_back_by_itself_is_worth_waiting_for(
    phase: tuple[WorkerState, Intent | None, Trigger | None], expected: Standing
) -> None:
    state, intent, waiting = phase
    assert standing(worker(state, intent, waiting=waiting)) is expected


@pytest.mark.parametrize("phase", STANDINGS)
def test_a_quarantined_worker_is_away_whatever_it_does(
    phase: tuple[WorkerState, Intent | None, Trigger | None],
) -> None:
    state, intent, waiting = phase
    assert standing(worker(state, intent, Health.QUARANTINED, waiting=waiting)) is Standing.AWAY


@pytest.mark.parametrize("phase", STANDINGS)
def test_a_worker_that_is_put_to_sleep_first_is_away(
    phase: tuple[WorkerState, Intent | None, Trigger | None],
) -> None:
    state, intent, waiting = phase
    assert standing(worker(state, intent, waiting=waiting, sleep_first=True)) is Standing.AWAY


def test_an_active_worker_of_unknown_health_is_unproven() -> None:
    assert standing(worker(health=Health.UNKNOWN)) is Standing.UNPROVEN


@pytest.mark.parametrize(
    ("health", "currency"),
    [*itertools.product((Health.HEALTHY, Health.UNKNOWN), (Currency.STALE, Currency.SUSPECT))],
)
def test_a_worker_with_other_weights_is_away_unless_it_is_being_refit(health: Health, currency: Currency) -> None:
    def stands(state: WorkerState, intent: Intent | None = None, waiting: Trigger | None = None) -> Standing:
        return standing(worker(state, intent, health, currency, waiting))

    assert [
        stands(WorkerState.ACTIVE),
        stands(WorkerState.RESUMING),
        stands(WorkerState.RELEASING, None, Trigger.WAKE),
        stands(WorkerState.RESUMING, None, Trigger.REFIT),
        stands(WorkerState.DRAINING, Intent.REFIT),
        stands(WorkerState.UPDATING),
    ] == [Standing.AWAY, Standing.AWAY, Standing.AWAY, Standing.COMING, Standing.COMING, Standing.COMING]


@pytest.mark.parametrize(
    ("capability", "labels", "group"),
    [
        (Capability(), (), None),
        (Capability(), (("group", "g"),), "g"),
        (Capability(models=("m", "n"), learned=True), (), "m"),
        (Capability(models=("m",), learned=True), (("zone", "z"), ("group", "g")), "g"),
        (Capability(learned=True), (), ""),
    ],
)
def test_the_weight_group_is_the_label_else_the_first_model(
    capability: Capability, labels: tuple[tuple[str, str], ...], group: str | None
) -> None:
    one = Worker(worker_id("a"), url("a"), 1, registered_s=0.0, capability=capability, labels=labels)
    assert one.weight_group == group


def test_the_version_shown_is_that_of_what_is_loaded() -> None:
    one = worker()
    assert one.weight_version == "0"
    one.loaded = Unversioned.SUSPECT
    assert one.weight_version is None


def test_two_records_of_one_worker_are_two_workers() -> None:
    assert worker() != worker()


def test_addresses_are_judged_where_workers_are_known() -> None:
    assert refused_address("169.254.1.1") == "is link-local"
