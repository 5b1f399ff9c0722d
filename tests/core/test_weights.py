"""The ledger: targets, what workers have, and whether that is the same."""

import pytest

from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.weights import (
    CHECKSUMS_MAX,
    HISTORY_CAP,
    Currency,
    Group,
    Ledger,
    Loaded,
    OpenRefit,
    Unversioned,
)

pytestmark = pytest.mark.core


def test_before_any_refit_everything_but_a_suspect_is_current() -> None:
    ledger = Ledger()
    judged = {loaded: ledger.currency("g", loaded) for loaded in (Unversioned.BASE, Unversioned.SUSPECT, "v1")}
    assert judged == {
        Unversioned.BASE: Currency.CURRENT,
        Unversioned.SUSPECT: Currency.SUSPECT,
        "v1": Currency.CURRENT,
    }


def test_the_first_success_raises_the_target_and_the_others_are_stale() -> None:
    ledger = Ledger()
    assert [ledger.succeeded("g", "v1"), ledger.succeeded("g", "v1")] == [True, False]
    judged = {loaded: ledger.currency("g", loaded) for loaded in ("v1", "v0", Unversioned.BASE, Unversioned.SUSPECT)}
    assert judged == {
        "v1": Currency.CURRENT,
        "v0": Currency.STALE,
        Unversioned.BASE: Currency.STALE,
        Unversioned.SUSPECT: Currency.SUSPECT,
    }


def test_groups_have_targets_of_their_own() -> None:
    ledger = Ledger()
    ledger.succeeded("g", "v1")
    assert ledger.currency("h", Unversioned.BASE) is Currency.CURRENT


def test_a_worker_of_no_known_group_is_current_only_while_no_group_has_a_target() -> None:
    ledger = Ledger()
    assert ledger.currency(None, Unversioned.BASE) is Currency.CURRENT
    ledger.succeeded("g", "v1")
    assert ledger.currency(None, Unversioned.BASE) is Currency.STALE
    assert ledger.currency(None, Unversioned.SUSPECT) is Currency.SUSPECT


def test_going_back_to_an_older_version_is_an_ordinary_refit() -> None:
    ledger = Ledger()
    for version in ("b", "a", "b"):
        assert ledger.succeeded("g", version)
    assert ledger.group("g") == Group("b", 3, {"a": 2, "b": 3})
    assert [ledger.currency("g", version) for version in "ab"] == [Currency.STALE, Currency.CURRENT]


def test_order_is_the_ledgers_own_and_0_comes_before_all() -> None:
    ledger = Ledger()
    for version in ("9", "10", "1"):
        ledger.succeeded("g", version)
    assert [ledger.sequence_of("g", version) for version in ("0", "9", "10", "1", "2")] == [0, 1, 2, 3, None]
    assert ledger.sequence_of("h", "0") == 0
    ledger.succeeded("g", "0")
    assert ledger.sequence_of("g", "0") == 4


def test_reading_a_group_that_has_no_target_leaves_the_ledger_alone() -> None:
    ledger = Ledger()
    ledger.group("g").target = "v"
    assert ledger.group("g") == Group()


def test_history_is_bounded_and_the_oldest_version_goes_first() -> None:
    ledger = Ledger()
    for number in range(HISTORY_CAP + 1):
        ledger.succeeded("g", f"v{number}")
    assert len(ledger.group("g").raised) == HISTORY_CAP
    assert ledger.sequence_of("g", "v0") is None
    assert ledger.sequence_of("g", f"v{HISTORY_CAP}") == HISTORY_CAP + 1


# While a refit is under way


def opened(mode: Mode, *, admit_new: bool = False, version: str = "2", kind: StepKind = StepKind.DISK) -> Ledger:
    """A group at version "1" on which a refit has begun."""
    ledger = Ledger()
    ledger.succeeded("g", "1", "first")
    ledger.begin({"g"}, OpenRefit("second", version, mode, Step(kind, version, "/refit"), admit_new))
    return ledger


def serving(ledger: Ledger) -> set[object]:
    candidates = [Unversioned.BASE, "1", "2", Unversioned.UNCHECKED, Unversioned.SUSPECT, Unversioned.OTHER]
    return {loaded for loaded in candidates if ledger.currency("g", loaded) is Currency.CURRENT}


@pytest.mark.parametrize(
    ("mode", "admit_new", "before", "during"),
    [
        (Mode.DRAIN, False, set(), {"2"}),
        (Mode.IMMEDIATE, False, set(), {"2"}),
        (Mode.ROLLING, False, {"1"}, {"1", "2"}),
        (Mode.ROLLING, True, {"1"}, {"2"}),
    ],
)
def test_who_serves_before_and_after_the_first_success_and_after_the_end(
    mode: Mode, before: set[object], during: set[object], *, admit_new: bool
) -> None:
    ledger = opened(mode, admit_new=admit_new)
    assert serving(ledger) == before
    assert ledger.succeeded("g", "2", "second")
    assert serving(ledger) == during
    assert not ledger.succeeded("g", "2", "second")
    assert ledger.end("second") == {"g"}
    assert serving(ledger) == {"2"}


def test_a_refit_that_nobody_took_leaves_the_target() -> None:
    ledger = opened(Mode.DRAIN)
    ledger.end("second")
    assert serving(ledger) == {"1"}


def test_the_first_rolling_refit_lets_what_the_workers_started_with_serve_on() -> None:
    ledger = Ledger()
    ledger.begin({"g"}, OpenRefit("r", "2", Mode.ROLLING, Step(StepKind.DISK, "2", "/refit")))
    ledger.succeeded("g", "2", "r")
    assert serving(ledger) == {Unversioned.BASE, "2"}


def test_a_refit_to_the_same_name_is_another_step_in_the_order() -> None:
    ledger = opened(Mode.DRAIN, version="1")
    ledger.note_checksums("g", "1", {"transformer": "old"})
    assert ledger.succeeded("g", "1", "second")
    assert (ledger.group("g").sequence, ledger.expected("g", "1")) == (2, None)


def test_each_success_of_a_new_refit_adds_its_step_to_the_recipe() -> None:
    ledger = opened(Mode.DRAIN, kind=StepKind.SET_LORA)
    ledger.succeeded("g", "2", "second")
    assert [step.version for step in ledger.group("g").recipe.steps] == ["2"]


@pytest.mark.parametrize(
    ("loaded", "wanted", "met"),
    [
        ("1", "1", True),
        ("2", "1", True),
        ("1", "2", False),
        (Unversioned.BASE, "0", True),
        (Unversioned.BASE, "1", False),
        ("2", "0", True),
        ("2", "unheard of", False),
        (Unversioned.SUSPECT, "0", False),
        (Unversioned.UNCHECKED, "0", False),
    ],
)
def test_a_demand_is_met_by_that_version_or_any_later(loaded: Loaded, wanted: str, *, met: bool) -> None:
    ledger = opened(Mode.DRAIN)
    ledger.succeeded("g", "2", "second")
    assert ledger.meets("g", loaded, wanted) is met


def test_going_back_to_an_older_version_puts_it_last_in_the_order() -> None:
    ledger = Ledger()
    for number, version in enumerate(("1", "2", "1")):
        ledger.succeeded("g", version, str(number))
    assert (ledger.meets("g", "1", "2"), ledger.meets("g", "2", "1")) == (True, False)


def test_a_worker_without_a_group_meets_only_what_all_have() -> None:
    ledger = opened(Mode.DRAIN)
    assert (ledger.meets(None, Unversioned.BASE, "0"), ledger.meets(None, Unversioned.BASE, "1")) == (True, False)


def test_a_restored_target_serves_nobody_until_it_is_proven() -> None:
    old = opened(Mode.DRAIN)
    old.end("second")
    old.note_checksums("g", "1", {"transformer": "s"})
    old.note_checksums("h", Unversioned.BASE, {"transformer": "b"})
    ledger = Ledger()
    ledger.restore(old.groups)
    assert serving(ledger) == set()
    assert ledger.expected("g", "1") == {"transformer": "s"}
    assert ledger.expected("h", Unversioned.BASE) is None
    assert ledger.prove("g")
    assert not ledger.prove("g")
    assert serving(ledger) == {"1"}


def test_checksums_of_few_versions_are_kept_and_always_those_of_the_base() -> None:
    ledger = Ledger()
    ledger.note_checksums("g", Unversioned.BASE, {"transformer": "b"})
    for number in range(2 * CHECKSUMS_MAX):
        ledger.note_checksums("g", str(number), {"transformer": str(number)})
    kept = ledger.group("g").checksums
    assert len(kept) == CHECKSUMS_MAX
    assert ledger.expected("g", Unversioned.BASE) == {"transformer": "b"}
    assert ledger.expected("g", str(2 * CHECKSUMS_MAX - 1)) is not None


def test_the_ledger_says_which_groups_an_event_has_changed() -> None:
    ledger = opened(Mode.DRAIN)
    ledger.changed = set()
    ledger.succeeded("g", "2", "second")
    assert ledger.changed == {"g"}
