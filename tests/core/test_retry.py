"""What may be sent to another worker."""

import itertools

import pytest

from sglang_diffusion_routing.core.retry import BUDGET_SPARE, Failure, RetryBudget, RetryLimits, may_retry

pytestmark = pytest.mark.core

# By failure: whether it may, given retries and the workers that have died under the request and failed it.
NEVER = {Failure.TIMED_OUT, Failure.BEGUN}
NOTHING_RAN = {Failure.CONNECT, Failure.ASLEEP}
PASTS = [(killed, failed) for killed, failed in itertools.product(range(4), range(4)) if killed <= failed]


@pytest.mark.parametrize("retries", [0, 1, 2, 9])
@pytest.mark.parametrize(("killed", "failed"), PASTS)
@pytest.mark.parametrize("failure", Failure)
def test_only_what_cannot_still_be_running_is_sent_again_and_never_after_two_deaths(
    failure: Failure, killed: int, failed: int, retries: int
) -> None:
    expected = failure not in NEVER and killed < 2 and retries > 0 and (failure in NOTHING_RAN or failed <= retries)
    assert may_retry(failure, RetryLimits(retries), killed=killed, failed=failed) is expected


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
