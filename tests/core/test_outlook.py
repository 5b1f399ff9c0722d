"""What is said of weights that are not current, case by case."""

from __future__ import annotations

import pytest

from core.fleet import T2I, url, worker_id
from sglang_diffusion_routing.core.outlook import Outlook, ResyncPlan, outlook, plan
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.weights import Currency, Ledger, Loaded, OpenRefit, Unversioned
from sglang_diffusion_routing.core.worker import Worker

pytestmark = pytest.mark.core

DISK = Step(StepKind.DISK, "1", "/disk")
SUMS = {"transformer": "s"}


def worker(loaded: Loaded, *, failures: int = 0, learned: bool = True) -> Worker:
    made = Worker(worker_id("a"), url("a"), 1, 0.0, loaded=loaded, currency=Currency.STALE, resync_failures=failures)
    if learned:
        made.capability = T2I
    return made


def ledger(*steps: Step, checksums: bool = False) -> Ledger:
    made = Ledger()
    for step in steps:
        made.begin({"m"}, OpenRefit(step.version, step.version, Mode.DRAIN, step))
        made.succeeded("m", step.version, step.version)
        made.end(step.version)
    if checksums:
        made.note_checksums("m", steps[-1].version if steps else Unversioned.BASE, SUMS)
    return made


def test_there_is_nothing_to_say_of_current_weights() -> None:
    current = worker("1")
    current.currency = Currency.CURRENT
    assert outlook(ledger(DISK), current, resync=True) == Outlook()


def test_a_worker_that_has_not_said_what_it_serves_is_waited_for() -> None:
    assert outlook(ledger(DISK), worker(Unversioned.BASE, learned=False), resync=True) == Outlook(
        "it has not said yet what it serves", mends=True
    )


@pytest.mark.parametrize("failures", [0, 3])
def test_a_missed_checkpoint_is_sent_again_and_waited_for_once(failures: int) -> None:
    seen = outlook(ledger(DISK), worker(Unversioned.BASE, failures=failures), resync=True)
    assert seen == Outlook("it is brought to '1'", mends=not failures, can_resync=True)


@pytest.mark.parametrize(
    ("loaded", "checksums", "failures", "looks"),
    [
        (Unversioned.UNCHECKED, True, 0, True),
        (Unversioned.SUSPECT, True, 0, True),
        (Unversioned.BASE, True, 0, True),
        (Unversioned.UNCHECKED, True, 1, False),
        (Unversioned.UNCHECKED, False, 0, False),
        ("0", True, 0, False),
    ],
)
def test_where_nothing_can_be_sent_a_worker_that_may_have_it_is_looked_at_once(
    loaded: Loaded, failures: int, *, checksums: bool, looks: bool
) -> None:
    tensors = Step(StepKind.TENSOR, "1", "/tensor")
    seen = outlook(ledger(tensors, checksums=checksums), worker(loaded, failures=failures), resync=True)
    assert (seen.mends, seen.can_resync) == (looks, looks)
    assert looks or seen.reason == "it does not have '1'; weights '1' came as tensors, which cannot be sent again"


@pytest.mark.parametrize(
    ("loaded", "checksums", "seen"),
    [
        (
            Unversioned.UNCHECKED,
            False,
            Outlook("it is compared with what its peers started with", mends=True, can_resync=True),
        ),
        (Unversioned.SUSPECT, True, Outlook("it is compared with what it started with", mends=True, can_resync=True)),
        (Unversioned.SUSPECT, False, Outlook("what it has loaded is unknown; the next refit brings it back")),
        (
            Unversioned.OTHER,
            True,
            Outlook("its weights differ from what its peers started with; the next refit brings it back"),
        ),
    ],
)
def test_without_a_target_workers_are_compared_with_what_is_known(
    loaded: Loaded, seen: Outlook, *, checksums: bool
) -> None:
    assert outlook(ledger(checksums=checksums), worker(loaded), resync=True) == seen


def test_the_plan_without_resync_is_only_to_look() -> None:
    made = plan(ledger(DISK, checksums=True), worker(Unversioned.BASE), None, resync=False)
    assert (made.expected, made.steps) == (SUMS, ())
    assert "--no-resync" in made.obstacle


def test_the_plan_sends_what_is_missing() -> None:
    made = plan(ledger(DISK, checksums=True), worker(Unversioned.BASE), None, resync=True)
    assert made == ResyncPlan("m", "1", SUMS, (DISK,))
