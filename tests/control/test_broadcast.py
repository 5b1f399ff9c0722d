import asyncio
from collections.abc import AsyncIterator

import pytest

from sglang_diffusion_routing.control.broadcast import AT_ONCE, Broadcast, Outgoing, ask_all, sort_out
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, WorkerApi
from sglang_diffusion_routing.core.events import HoldRequested, QuarantineRequested, WorkerRegistered
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import NoEligibleWorker
from sglang_diffusion_routing.schemas import FanOutReply, FanOutRow, SkippedRow
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core


class Answering(WorkerApi):
    """Gives every call the same answer, and counts how many are under way."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Call]] = []
        self.under_way = 0
        self.most = 0

    async def send(self, url: WorkerUrl, call: Call) -> Answer:
        self.calls.append((str(url), call))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return Answer(Ended.SUCCEEDED, 200, str(url))


async def body(content: bytes) -> Spool:
    async def stream() -> AsyncIterator[bytes]:
        yield content

    spool = Spool()
    await spool.fill(stream())
    return spool


@pytest.fixture
async def fleet() -> RecordingFleet:
    return RecordingFleet()


async def test_only_active_workers_that_are_well_are_asked(fleet: RecordingFleet) -> None:
    active, held, sick = (fleet.join(f"http://{name}:1") for name in "abc")
    fleet.apply(HoldRequested(held.worker_id))
    fleet.apply(QuarantineRequested(sick.worker_id))
    fleet.apply(WorkerRegistered(WorkerUrl.parse("http://new:1")))
    workers = list(fleet.pool.workers.values())
    eligible, skips = sort_out(workers)
    assert eligible == [active, workers[-1]]
    assert skips == [
        SkippedRow(worker_url="http://b:1", reason="draining"),
        SkippedRow(worker_url="http://c:1", reason="quarantined"),
    ]


async def test_rows_come_in_the_order_of_the_workers(fleet: RecordingFleet) -> None:
    workers = [fleet.join(f"http://{name}:1") for name in "cab"]
    api = Answering()
    broadcast = Broadcast(fleet, api, timeout_s=9.0, max_reply_bytes=7)
    with await body(b"abc") as spool:
        reply = await broadcast.send(workers, Outgoing("PUT", "/x?y", spool, {"accept": "a/b"}), timeout_s=99.0)
    urls = ["http://c:1", "http://a:1", "http://b:1"]
    rows = [FanOutRow(worker_url=url, status_code=200, body=url) for url in urls]
    assert reply == FanOutReply(results=rows, success=True, skipped=[])
    sent = api.calls[0][1]
    assert (sent.method, sent.target, sent.timeout_s, sent.max_reply_bytes) == ("PUT", "/x?y", 9.0, 7)
    assert sent.headers == {"accept": "a/b", "content-length": "3"}


@pytest.mark.parametrize(
    ("method", "headers"),
    [("GET", {}), ("DELETE", {}), ("POST", {"content-length": "0"}), ("PUT", {"content-length": "0"})],
)
async def test_a_request_without_a_body_says_so_where_one_is_usual(method: str, headers: dict[str, str]) -> None:
    with Spool() as spool:
        call = Outgoing(method, "/", spool).call(1.0, 1)
    assert (call.headers, call.content) == (headers, None)


async def test_nobody_to_ask_is_an_error(fleet: RecordingFleet) -> None:
    held = fleet.join("http://a:1")
    fleet.apply(HoldRequested(held.worker_id))
    with Spool() as spool, pytest.raises(NoEligibleWorker) as caught:
        await Broadcast(fleet, Answering(), timeout_s=1.0, max_reply_bytes=1).send([held], Outgoing("GET", "/", spool))
    assert caught.value.facts == {"by_status": {"draining": 1}}


async def test_calls_under_way_are_bounded(fleet: RecordingFleet) -> None:
    workers = [fleet.join(f"http://w{n}:1") for n in range(AT_ONCE + 10)]
    api = Answering()
    answers = await ask_all(api, workers, lambda: Call("GET", "/", 1.0))
    assert [answer.body for answer in answers] == [worker.worker_id for worker in workers]
    assert api.most == AT_ONCE
