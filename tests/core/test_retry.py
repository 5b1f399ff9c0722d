"""What may be sent to another worker."""

import itertools

import pytest

from sglang_diffusion_routing.core.retry import BUDGET_SPARE, Failure, RetryBudget, RetryLimits, may_retry

pytestmark = pytest.mark.core

# By failure, workers that died under the request, and retries; everything else may not.
MAY = {
    *((Failure.CONNECT, died, retries) for died, retries in itertools.product((0, 1), (1, 2, 9))),
    *((Failure.ASLEEP, died, retries) for died, retries in itertools.product((0, 1), (1, 2, 9))),
    *((Failure.DIED, 1, retries) for retries in (1, 2, 9)),
}


# A death counts itself.
CASES = [
    (failure, died, retries)
    for failure, died, retries in itertools.product(Failure, (0, 1, 2, 3), (0, 1, 2, 9))
    if died or failure is not Failure.DIED
]


@pytest.mark.parametrize(("failure", "died", "retries"), CASES)
def test_only_what_cannot_still_be_running_is_sent_again_and_never_after_two_deaths(
    failure: Failure, died: int, retries: int
) -> None:
    assert may_retry(failure, died, RetryLimits(retries)) is ((failure, died, retries) in MAY)


@pytest.mark.parametrize(
    ("percent", "active", "allowed"),
    [
        *((20, active, 10) for active in (0, 1, 10, 54)),
        (20, 55, 11),
        (20, 59, 11),
        (20, 1000, 200),
        (0, 1000, 10),
        (100, 10, 10),
        (100, 1000, 1000),
    ],
)
def test_a_share_of_active_work_may_be_retries_and_ten_in_any_case(percent: int, active: int, allowed: int) -> None:
    budget = RetryBudget(percent)
    assert [budget.take(active) for _ in range(allowed + 2)] == [True] * allowed + [False] * 2
    assert budget.under_way == allowed


def test_a_retry_that_has_ended_makes_room_for_another() -> None:
    budget = RetryBudget(0)
    for _ in range(BUDGET_SPARE):
        assert budget.take(1)
    budget.give_back()
    assert [budget.take(1), budget.take(1)] == [True, False]
