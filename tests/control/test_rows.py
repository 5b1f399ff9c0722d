import asyncio

import pytest

from sglang_diffusion_routing.control.ports import Ending
from sglang_diffusion_routing.control.rows import Asked, endings, is_good, reply, row_of_ending, skipped
from sglang_diffusion_routing.control.worker_api import Answer, Ended, Failure
from sglang_diffusion_routing.core.commands import Outcome
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.schemas import FanOutReply, FanOutRow, SkippedRow

pytestmark = pytest.mark.core
A = Worker(WorkerId("http://a:1"), WorkerUrl.parse("http://a:1"), 1, 0.0)


@pytest.mark.parametrize(
    ("ending", "status", "body"),
    [
        (Ending(Outcome.DONE), 200, "already"),
        (Ending(Outcome.DONE, answer=Answer(Ended.SUCCEEDED, 200, {"a": 1})), 200, {"a": 1}),
        (Ending(Outcome.REFUSED, "no", Answer(Ended.REFUSED, 400, {"message": "no"})), 400, {"message": "no"}),
        (
            Ending(Outcome.LOST, "gone", Answer(Ended.LOST, 502, {"error": "gone"}, failure=Failure.BROKEN)),
            502,
            {"error": "gone"},
        ),
        (Ending(Outcome.LOST, "late"), 502, {"error": "late"}),
        (Ending(Outcome.EXPIRED, "the drain limit has passed"), 504, {"error": "the drain limit has passed"}),
        (Ending(Outcome.SUPERSEDED), 409, {"error": "superseded"}),
        (Ending(Outcome.CONFLICT, "it is being removed"), 409, {"error": "it is being removed"}),
    ],
)
def test_every_ending_has_its_row(ending: Ending, status: int, body: object) -> None:
    row = row_of_ending(A, ending, "already")
    assert row == FanOutRow(worker_url="http://a:1", status_code=status, body=body)


@pytest.mark.parametrize(
    ("status", "body", "good"),
    [(200, {}, True), (204, None, True), (200, {"success": False}, False), (300, {}, False), (502, {}, False)],
)
def test_a_row_is_good_when_the_worker_did_it(status: int, body: object, good: bool) -> None:
    assert is_good(FanOutRow(worker_url="u", status_code=status, body=body)) is good


def test_a_fan_out_succeeds_when_every_row_is_good() -> None:
    good = FanOutRow(worker_url="a", status_code=200, body=1)
    bad = FanOutRow(worker_url="b", status_code=500, body=2)
    skip = skipped(A, "asleep")
    assert reply([good, bad], [skip]) == FanOutReply(
        results=[good, bad], success=False, skipped=[SkippedRow(worker_url="http://a:1", reason="asleep")]
    )
    assert reply([good], [skip]).success is True
    told = reply([good], [], message="m", version="v", refit="refit-1")
    assert (told.message, told.weight_version, told.refit) == ("m", "v", "refit-1")


async def test_what_has_not_ended_in_time_is_lost() -> None:
    loop = asyncio.get_running_loop()
    done, late = loop.create_future(), loop.create_future()
    done.set_result(Ending(Outcome.DONE))
    assert await endings([Asked(A, done), Asked(A, late)], 0.01) == [
        Ending(Outcome.DONE),
        Ending(Outcome.LOST, "not done within 0.01 s"),
    ]
    assert await endings([], 0.01) == []
