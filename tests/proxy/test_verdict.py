import pytest

from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.proxy.verdict import HOLD_BYTES, is_telling, result_of

pytestmark = pytest.mark.core

# Replies of SGLang 0.5.23.
ASLEEP = b'{"detail":"Server is sleeping. Call resume_memory_occupation first."}'
SCHEDULER_DIED = b'{"error":"Scheduler worker exited; restart the server"}'
UNHEALTHY = b'{"status":"unhealthy","error":"Scheduler worker exited; restart the server"}'


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (200, b"{}", Result.OK),
        (200, ASLEEP, Result.OK),
        (400, ASLEEP, Result.OK),
        (404, b"", Result.OK),
        (422, b'{"detail":[]}', Result.OK),
        (429, b"", Result.OK),
        (499, b"", Result.OK),
        (500, ASLEEP, Result.ASLEEP),
        (500, b"Internal Server Error", Result.SERVER_ERROR),
        (500, b"", Result.SERVER_ERROR),
        (500, SCHEDULER_DIED, Result.SERVER_ERROR),
        (503, ASLEEP, Result.SERVER_ERROR),
        (503, SCHEDULER_DIED, Result.SCHEDULER_DIED),
        (503, UNHEALTHY, Result.SCHEDULER_DIED),
        (503, b"", Result.SERVER_ERROR),
        (502, b"", Result.SERVER_ERROR),
        (599, b"", Result.SERVER_ERROR),
    ],
)
def test_a_whole_reply_is_classified(status: int, body: bytes, result: Result) -> None:
    assert result_of(status, body) is result


def test_only_a_status_that_may_mean_that_nothing_ran_is_looked_into() -> None:
    assert [status for status in range(100, 1000) if is_telling(status)] == [500, 503]
    assert len(UNHEALTHY) < HOLD_BYTES
