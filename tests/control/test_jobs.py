import asyncio
from collections.abc import AsyncIterator

import pytest

from sglang_diffusion_routing.control.jobs import JobLocator, JobProbe
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.affinity import Pinned
from sglang_diffusion_routing.core.events import QuarantineRequested
from sglang_diffusion_routing.core.work import JobStatus
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.http1.connect import Connector
from support.fleet import RecordingFleet
from support.raw_worker import Handler, answering, reply, serving

NOT_FOUND = reply(404, b'{"detail":"Video not found"}')


@pytest.fixture
async def api() -> AsyncIterator[WorkerApi]:
    async with WorkerApi(Connector(), connect_timeout_s=2.0) as api:
        yield api


def knowing(*targets: bytes, seen: list[bytes] | None = None) -> Handler:
    """A worker that knows these targets."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        writer.write(reply(200, b"{}") if head.split(b" ")[1] in targets else NOT_FOUND)

    return handle


@pytest.mark.parametrize(
    ("kind", "job_id", "target"),
    [
        ("videos", "v1", b"/v1/videos/v1"),
        ("meshes", "a b/c?d", b"/v1/meshes/a%20b%2Fc%3Fd"),
        ("images", "i1", b"/v1/images/i1/content"),
    ],
)
async def test_the_worker_that_knows_an_id_is_found_and_remembered(
    api: WorkerApi, kind: str, job_id: str, target: bytes
) -> None:
    fleet = RecordingFleet()
    locator = JobLocator(fleet, api, timeout_s=5.0)
    async with serving(knowing()) as one, serving(knowing(target)) as other:
        fleet.join(str(one))
        owner = fleet.join(str(other))
        assert await locator.locate(kind, job_id) == owner.worker_id
    assert fleet.affinity.owner(kind, job_id, fleet.now_s()) == Pinned(owner.worker_id, owner.incarnation)


async def test_only_the_first_byte_of_an_image_is_asked_for(api: WorkerApi) -> None:
    fleet, seen = RecordingFleet(), list[bytes]()
    async with serving(knowing(b"/v1/images/i/content", seen=seen)) as url:
        fleet.join(str(url))
        await JobLocator(fleet, api, timeout_s=5.0).locate("images", "i")
    assert b"range: bytes=0-0\r\n" in seen[0]


async def test_an_id_that_nobody_knows_has_no_owner(api: WorkerApi) -> None:
    fleet = RecordingFleet()
    locator = JobLocator(fleet, api, timeout_s=0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(knowing()) as one, serving(silent) as other:
        fleet.join(str(one))
        fleet.join(str(other))
        assert await locator.locate("videos", "x") is None
    assert await JobLocator(RecordingFleet(), api, timeout_s=1.0).locate("videos", "x") is None


async def test_quarantined_workers_are_not_asked(api: WorkerApi) -> None:
    fleet, seen = RecordingFleet(), list[bytes]()
    async with serving(knowing(b"/v1/videos/x", seen=seen)) as url:
        worker = fleet.join(str(url))
        fleet.apply(QuarantineRequested(worker.worker_id))
        assert await JobLocator(fleet, api, timeout_s=5.0).locate("videos", "x") is None
    assert seen == []


async def test_searches_for_the_same_id_are_one(api: WorkerApi) -> None:
    fleet, seen = RecordingFleet(), list[bytes]()
    locator = JobLocator(fleet, api, timeout_s=5.0)
    async with serving(knowing(b"/v1/videos/x", seen=seen)) as url:
        worker = fleet.join(str(url))
        found = await asyncio.gather(*(locator.locate("videos", "x") for _ in range(5)))
    assert (found, len(seen)) == ([worker.worker_id] * 5, 1)


async def test_who_leaves_does_not_end_the_search_of_the_others(api: WorkerApi) -> None:
    fleet, go_on = RecordingFleet(), asyncio.Event()
    locator = JobLocator(fleet, api, timeout_s=5.0)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        writer.write(reply(200, b"{}"))

    async with serving(slow) as url:
        worker = fleet.join(str(url))
        leaving = asyncio.ensure_future(locator.locate("videos", "x"))
        staying = asyncio.ensure_future(locator.locate("videos", "x"))
        await asyncio.sleep(0)
        leaving.cancel()
        go_on.set()
        assert await staying == worker.worker_id


def worker_at(url: WorkerUrl) -> Worker:
    return Worker(WorkerId(str(url)), url, 1, 0.0)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (reply(200, b'{"status":"queued","progress":0}'), JobStatus.RUNNING),
        (reply(200, b'{"status":"in_progress"}'), JobStatus.RUNNING),
        (reply(200, b'{"status":"completed"}'), JobStatus.ENDED),
        (reply(200, b'{"status":"failed"}'), JobStatus.FAILED),
        (reply(200, b"{}"), JobStatus.LOST),
        (reply(200, b'{"status":5}'), JobStatus.LOST),
        (reply(200, b"[]"), JobStatus.LOST),
        (NOT_FOUND, JobStatus.UNKNOWN),
        (reply(500, b"Internal Server Error"), JobStatus.LOST),
        (b"", JobStatus.LOST),
    ],
)
async def test_a_jobs_status_is_what_its_worker_says(api: WorkerApi, raw: bytes, status: JobStatus) -> None:
    probe = JobProbe(api, timeout_s=5.0, barrier_limit_s=5.0)
    async with serving(answering(raw)) as url:
        assert await probe.status("videos", "v", worker_at(url)) is status


async def test_the_barrier_waits_in_the_workers_queue(api: WorkerApi) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def queue(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /stats ")
        reached.set()
        await go_on.wait()
        writer.write(reply(200, b"{}"))

    probe = JobProbe(api, timeout_s=5.0, barrier_limit_s=5.0)
    async with serving(queue) as url:
        barrier = asyncio.ensure_future(probe.barrier(worker_at(url)))
        await reached.wait()
        assert not barrier.done()
        go_on.set()
        await barrier


async def test_the_barrier_ends_with_its_worker(api: WorkerApi) -> None:
    probe = JobProbe(api, timeout_s=5.0, barrier_limit_s=5.0)
    async with serving(answering(b"")) as url:
        await probe.barrier(worker_at(url))
    await probe.barrier(worker_at(url))
