"""Results of probes in, health and the next probe's instant out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.core.health import (
    HealthLimits,
    Vitals,
    backoff_s,
    doubted,
    excused,
    failed,
    quarantined,
    quarantined_by_operator,
    succeeded,
)
from sglang_diffusion_routing.core.state import Health

pytestmark = pytest.mark.core

LIMITS = HealthLimits()


def well(at_s: float = 0.0) -> Vitals:
    return succeeded(Vitals(), at_s, LIMITS)


def test_the_first_success_makes_an_unknown_worker_healthy() -> None:
    assert succeeded(Vitals(), 7.0, LIMITS) == Vitals(Health.HEALTHY, probe_due_s=17.0, answered=True)


def test_the_first_failure_quarantines_an_unknown_worker() -> None:
    assert failed(Vitals(), 7.0, LIMITS) == Vitals(Health.QUARANTINED, failures=1, probe_due_s=8.0)


def test_a_healthy_worker_is_quarantined_by_the_third_failure_in_a_row() -> None:
    vitals, seen = well(), []
    for at_s in (10.0, 11.0, 13.0):
        vitals = failed(vitals, at_s, LIMITS)
        seen.append((vitals.health, vitals.failures, vitals.probe_due_s))
    assert seen == [(Health.HEALTHY, 1, 11.0), (Health.HEALTHY, 2, 13.0), (Health.QUARANTINED, 3, 17.0)]


def test_a_success_in_between_starts_the_count_again() -> None:
    vitals = failed(failed(well(), 1.0, LIMITS), 2.0, LIMITS)
    vitals = failed(succeeded(vitals, 3.0, LIMITS), 4.0, LIMITS)
    assert (vitals.health, vitals.failures) == (Health.HEALTHY, 1)


def test_one_success_brings_a_worker_back() -> None:
    vitals = failed(Vitals(), 1.0, LIMITS)
    assert succeeded(vitals, 2.0, LIMITS) == Vitals(Health.HEALTHY, probe_due_s=12.0, answered=True)


def test_the_back_off_doubles_from_1_to_15_s_and_goes_on_for_ever() -> None:
    assert [backoff_s(n, LIMITS) for n in (1, 2, 3, 4, 5, 6, 10_000)] == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


def test_a_healthy_worker_is_never_probed_less_often_because_it_failed() -> None:
    limits = HealthLimits(interval_s=1.5, threshold=10)
    vitals = failed(failed(failed(succeeded(Vitals(), 0.0, limits), 1.5, limits), 2.5, limits), 4.0, limits)
    assert (vitals.health, vitals.probe_due_s) == (Health.HEALTHY, 5.5)


def test_a_busy_workers_silence_is_excused_until_its_grace_has_passed() -> None:
    first = excused(well(), 100.0, None, LIMITS)
    assert first == Vitals(Health.HEALTHY, silent_since_s=100.0, probe_due_s=110.0, answered=True)
    assert excused(first, 999.9, None, LIMITS) == Vitals(
        Health.HEALTHY, silent_since_s=100.0, probe_due_s=1009.9, answered=True
    )
    assert excused(first, 1000.0, None, LIMITS) is None


def test_a_completed_reply_breaks_the_silence() -> None:
    silent = excused(well(), 100.0, None, LIMITS)
    assert silent is not None
    later = excused(silent, 1000.0, 400.0, LIMITS)
    assert later == Vitals(Health.HEALTHY, silent_since_s=400.0, probe_due_s=1010.0, answered=True)
    assert excused(silent, 1300.0, 400.0, LIMITS) is None


def test_an_answered_probe_ends_the_silence() -> None:
    silent = excused(well(), 100.0, None, LIMITS)
    assert silent is not None
    again = excused(succeeded(silent, 500.0, LIMITS), 1300.0, None, LIMITS)
    assert again is not None
    assert again.silent_since_s == 1300.0


def test_being_excused_does_not_clear_the_failures_so_far() -> None:
    vitals = excused(failed(well(), 1.0, LIMITS), 2.0, None, LIMITS)
    assert vitals is not None
    assert vitals.failures == 1


def test_an_operators_quarantine_survives_success() -> None:
    vitals = succeeded(quarantined_by_operator(well()), 5.0, LIMITS)
    assert (vitals.health, vitals.sticky) == (Health.QUARANTINED, True)


def test_an_operators_quarantine_leaves_the_count_and_the_next_probe_as_they_are() -> None:
    assert quarantined_by_operator(well()) == Vitals(Health.QUARANTINED, sticky=True, probe_due_s=10.0, answered=True)


def test_a_quarantine_for_another_reason_waits_as_long_as_it_is_told() -> None:
    assert quarantined(well(), 100.0, 15.0, LIMITS) == Vitals(
        Health.QUARANTINED, failures=3, probe_due_s=115.0, answered=True
    )


def test_doubt_lets_the_next_result_decide() -> None:
    assert doubted(quarantined_by_operator(well()), 50.0) == Vitals(Health.UNKNOWN, probe_due_s=50.0, answered=True)


@given(st.lists(st.booleans()), st.integers(1, 5))
def test_health_is_what_the_last_results_say(results: list[bool], threshold: int) -> None:
    limits = HealthLimits(threshold=threshold)
    vitals = Vitals()
    for at_s, good in enumerate(results):
        vitals = (succeeded if good else failed)(vitals, float(at_s), limits)
    in_a_row = next((n for n, good in enumerate(reversed(results)) if good), len(results))
    if not results:
        expected = Health.UNKNOWN
    elif True not in results or in_a_row >= threshold:
        expected = Health.QUARANTINED
    else:
        expected = Health.HEALTHY
    assert (vitals.health, vitals.failures) == (expected, in_a_row)
