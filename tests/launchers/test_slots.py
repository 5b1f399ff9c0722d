"""Tests of the rules of a slot."""

import itertools

import pytest

from sglang_diffusion_routing.launchers.slots import (
    GIVEN_UP,
    TABLE,
    Impossible,
    Phase,
    RestartLimits,
    Row,
    Trigger,
    after,
)

pytestmark = pytest.mark.core


@pytest.mark.parametrize(("phase", "trigger"), list(itertools.product(Phase, Trigger)))
def test_each_trigger_moves_a_slot_as_written_or_cannot_happen(phase: Phase, trigger: Trigger) -> None:
    if (phase, trigger) in TABLE:
        assert after(phase, trigger) is TABLE[phase, trigger]
    else:
        with pytest.raises(Impossible, match=f"{trigger.value} while {phase.value}"):
            after(phase, trigger)


@pytest.mark.parametrize("phase", Phase)
def test_an_operator_can_end_every_phase(phase: Phase) -> None:
    """Stopped it can be from wherever it is, and started from wherever nothing else starts it."""
    assert (phase, Trigger.STOP) in TABLE or phase in {Phase.STOPPING, Phase.STOPPED}
    if phase in GIVEN_UP:
        assert [trigger for trigger in Trigger if (phase, trigger) in TABLE and trigger is not Trigger.STOP] == [
            Trigger.START
        ]


def test_every_phase_can_be_reached_and_left() -> None:
    assert set(TABLE.values()) == set(Phase)
    assert {phase for phase, _ in TABLE} == set(Phase)


LIMITS = RestartLimits(delay_s=1.0, delay_max_s=5.0, deaths=6, window_s=60.0)


def test_the_wait_doubles_up_to_its_limit_and_then_there_is_none() -> None:
    row = Row(LIMITS)
    assert [row.died(0.0) for _ in range(7)] == [1.0, 2.0, 4.0, 5.0, 5.0, None, None]


def test_a_time_of_serving_ends_a_row() -> None:
    row = Row(LIMITS)
    assert [row.died(served_s) for served_s in (0.0, 59.9, 60.0, 0.0)] == [1.0, 2.0, 1.0, 2.0]


def test_a_worker_that_always_serves_long_enough_is_started_for_ever() -> None:
    row = Row(LIMITS)
    assert {row.died(60.0) for _ in range(100)} == {1.0}


def test_an_operator_forgives_what_was() -> None:
    row = Row(LIMITS)
    for _ in range(5):
        row.died(0.0)
    row.forgive()
    assert row.died(0.0) == 1.0


def test_very_many_deaths_are_no_overflow() -> None:
    row = Row(RestartLimits(delay_s=1.0, delay_max_s=60.0, deaths=10_000))
    assert {row.died(0.0) for _ in range(5000)} == {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0}
