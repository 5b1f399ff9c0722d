"""The ledger: targets, what workers have, and whether that is the same."""

import pytest

from sglang_diffusion_routing.core.weights import (
    HISTORY_CAP,
    Currency,
    Group,
    Ledger,
    Unversioned,
    shown_version,
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


@pytest.mark.parametrize(("loaded", "shown"), [(Unversioned.BASE, "0"), (Unversioned.SUSPECT, None), ("v1", "v1")])
def test_the_version_shown_is_0_for_what_a_process_started_with(loaded: str | Unversioned, shown: str | None) -> None:
    assert shown_version(loaded) == shown
