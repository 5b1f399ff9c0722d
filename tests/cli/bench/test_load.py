"""Tests of the load, against simulated workers in threads of this process."""

import asyncio

import pytest

from sglang_diffusion_routing.cli.bench.load import Bounds, Outcome, load
from sglang_diffusion_routing.cli.bench.requests import Request, Shape, Task
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings

pytestmark = pytest.mark.loopback

SHAPE = Shape(16, 16, steps=2, outputs=2)
BOUNDS = Bounds(request_s=20.0, run_s=20.0, poll_s=0.01)


def requests(task: Task, count: int) -> list[Request]:
    return [Request.of(task, SHAPE, number) for number in range(count)]


@pytest.mark.parametrize(("task", "model"), [(Task.IMAGE, "sd3"), (Task.ROLLOUT, "sd3"), (Task.VIDEO, "wan")])
async def test_every_request_is_sent_once_and_its_outputs_counted(task: Task, model: str) -> None:
    ended = 0

    def tick() -> None:
        nonlocal ended
        ended += 1

    with SimInThread(SimSettings(model=model, seconds_per_mpx_step=0.0)) as sim:
        done = await load([sim.url], requests(task, 7), 3, BOUNDS, tick)
        finished = len(sim.worker.engine.finished)
    assert [(outcome.outputs, outcome.error) for outcome in done.outcomes] == [(2, "")] * 7
    assert all(outcome.received_bytes > 100 for outcome in done.outcomes)
    assert (ended, finished) == (7, 7)


async def test_no_more_are_in_flight_than_was_said() -> None:
    # Work takes no time; a reply waits. So whatever is beyond the limit would be finished at once.
    faults = '{"reply_delay_s": 0.3}'
    with SimInThread(SimSettings(overhead_seconds=0.0, seconds_per_mpx_step=0.0, faults=faults)) as sim:
        done = await load([sim.url], requests(Task.IMAGE, 4), 2, BOUNDS)
    assert 0.6 <= done.seconds < 5.0
    assert all(outcome.seconds >= 0.3 for outcome in done.outcomes)


async def test_requests_that_come_by_themselves_wait_for_nobody() -> None:
    due_s = [0.0, 0.1, 0.2, 0.3]
    faults = '{"reply_delay_s": 1.0}'
    with SimInThread(SimSettings(overhead_seconds=0.0, seconds_per_mpx_step=0.0, faults=faults)) as sim:
        done = await load([sim.url], requests(Task.IMAGE, 4), 4, BOUNDS, due_s=due_s)
        came_s = [finished.queued_s - done.began_s for finished in sim.worker.engine.finished]
    assert [came >= due - 0.01 for came, due in zip(came_s, due_s, strict=True)] == [True] * 4, came_s
    assert came_s[3] < 1.0, "before the first has its reply"
    assert all(outcome.seconds >= 1.0 for outcome in done.outcomes)


async def test_a_request_that_waits_for_one_of_those_in_flight_has_come_before() -> None:
    faults = '{"reply_delay_s": 0.2}'
    with SimInThread(SimSettings(overhead_seconds=0.0, seconds_per_mpx_step=0.0, faults=faults)) as sim:
        done = await load([sim.url], requests(Task.IMAGE, 3), 1, BOUNDS, due_s=[0.0, 0.0, 0.0])
    assert [outcome.seconds >= 0.2 * number for number, outcome in enumerate(done.outcomes, 1)] == [True] * 3


async def test_several_addresses_take_turns() -> None:
    with SimInThread() as one, SimInThread() as other:
        await load([one.url, other.url], requests(Task.IMAGE, 6), 2, BOUNDS)
        assert [len(sim.worker.engine.finished) for sim in (one, other)] == [3, 3]


async def test_a_failure_is_an_outcome_with_its_reason() -> None:
    with SimInThread(SimSettings(faults='{"fail_next": 1}')) as sim:
        done = await load([sim.url], requests(Task.IMAGE, 2), 1, BOUNDS)
    assert [(outcome.outputs, outcome.error) for outcome in done.outcomes] == [
        (0, "500: Internal Server Error"),
        (2, ""),
    ]


async def test_one_failure_is_not_the_cause_of_the_next() -> None:
    # A worker closes the connection after its 500, without a word.
    with SimInThread(SimSettings(faults='{"broken": true}')) as sim:
        done = await load([sim.url], requests(Task.IMAGE, 20), 1, BOUNDS)
    assert [outcome.error for outcome in done.outcomes] == ["500: Internal Server Error"] * 20


async def test_a_video_that_fails_is_a_failure() -> None:
    with SimInThread(SimSettings(model="wan", faults='{"broken": true}')) as sim:
        done = await load([sim.url], requests(Task.VIDEO, 1), 1, BOUNDS)
    assert [outcome.error for outcome in done.outcomes] == ["the job's status is 'failed'"]


async def test_nobody_listening_is_a_failure_not_an_exception() -> None:
    with SimInThread() as sim:
        url = sim.url
    (outcome,) = (await load([url], requests(Task.IMAGE, 1), 1, BOUNDS)).outcomes
    assert outcome.error.startswith("ConnectError")


async def test_a_request_ends_at_its_limit() -> None:
    with SimInThread(SimSettings(faults='{"reply_delay_s": 30}')) as sim:
        done = await load([sim.url], requests(Task.IMAGE, 1), 1, Bounds(request_s=0.2, run_s=20.0))
    assert [outcome.error for outcome in done.outcomes] == ["took longer than 0.2 s"]


async def test_a_run_ends_at_its_limit_and_what_is_left_has_failed() -> None:
    with SimInThread(SimSettings(faults='{"reply_delay_s": 30}')) as sim:
        done = await load([sim.url], requests(Task.IMAGE, 3), 1, Bounds(request_s=30.0, run_s=0.2))
    late = Outcome(done.seconds, 0, 0, error="had not ended when the run's 0.2 s were over")
    assert done.outcomes == (late, late, late)
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("sender-")] == []


@pytest.mark.parametrize("size", [40, 100_000])
async def test_the_memory_that_a_worker_tells_of_is_at_the_end_of_its_reply(size: int) -> None:
    body = b'{"data":[{"b64_json":"%b"}],"peak_memory_mb": 1234.5,"inference_time_s":1}' % (b"x" * size)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(head + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        (outcome,) = (await load([f"http://127.0.0.1:{port}"], requests(Task.IMAGE, 1), 1, BOUNDS)).outcomes
    assert (outcome.error, outcome.received_bytes, outcome.peak_memory_mb) == ("", len(body), 1234.5)
