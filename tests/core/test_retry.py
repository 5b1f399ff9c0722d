"""What may be sent to another worker."""

import itertools

import pytest

from sglang_diffusion_routing.core.retry import Failure, RetryLimits, may_retry

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
