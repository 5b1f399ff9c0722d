import asyncio
import threading
import time
from typing import Any

import pytest

from sglang_diffusion_routing.sim.engine import Engine, SchedulerDead, Turn
from sglang_diffusion_routing.sim.faults import Faults
from sglang_diffusion_routing.sim.settings import SimSettings

pytestmark = pytest.mark.core


def engine(faults: Faults | None = None, **settings: Any) -> Engine:
    return Engine(SimSettings(**settings), faults or Faults())


class Gate:
    """Work that runs until the test lets it end."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.open = threading.Event()

    def __call__(self, _turn: Turn) -> str:
        self.started.set()
        assert self.open.wait(10.0)
        return "done"


async def test_work_is_done_one_at_a_time_in_the_order_it_came() -> None:
    queue, gate, order = engine(), Gate(), list[int]()

    def note(number: int) -> Any:
        def work(_turn: Turn) -> None:
            order.append(number)

        return work

    futures = [queue.submit("gate", gate), *(queue.submit("note", note(number)) for number in range(20))]
    await asyncio.to_thread(gate.started.wait, 10.0)
    assert (queue.running, queue.queued, order) == ("gate", 20, [])
    gate.open.set()
    await asyncio.gather(*map(asyncio.wrap_future, futures))
    assert order == list(range(20))


async def test_work_goes_on_when_nobody_waits_for_it_any_more() -> None:
    queue, gate = engine(), Gate()
    waiter = asyncio.ensure_future(queue.run("gate", gate))
    await asyncio.to_thread(gate.started.wait, 10.0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    behind = queue.submit("behind", lambda _turn: "behind")
    gate.open.set()
    assert await asyncio.wrap_future(behind) == "behind"
    assert next((entry.kind, entry.ok) for entry in queue.finished) == ("gate", True)


async def test_an_error_reaches_whoever_waits_and_the_engine_goes_on() -> None:
    queue = engine()

    def broken(_turn: Turn) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await queue.run("broken", broken)
    assert await queue.run("fine", lambda _turn: 1) == 1
    assert [(entry.kind, entry.ok) for entry in queue.finished] == [("broken", False), ("fine", True)]


async def test_a_dead_scheduler_fails_what_runs_what_waits_and_what_comes() -> None:
    queue = engine()

    def endless(turn: Turn) -> None:
        turn.take(3600.0)
        turn.reach(1.0)

    running = queue.submit("running", endless)
    waiting = queue.submit("waiting", lambda _turn: None)
    queue.die("gone")
    for future in (running, waiting, queue.submit("late", lambda _turn: None)):
        with pytest.raises(SchedulerDead, match="gone"):
            await asyncio.wrap_future(future)
    assert queue.queued == 0


async def test_work_takes_the_time_it_says() -> None:
    queue, reached = engine(speed=2.0), list[float]()

    def work(turn: Turn) -> None:
        turn.take(0.2)
        for share in (0.5, 1.0):
            turn.reach(share)
            reached.append(turn.elapsed_s)

    await queue.run("work", work)
    assert 0.05 <= reached[0] < 0.1 <= reached[1] < 1.0


def test_durations_are_scaled_by_speed_slowness_and_jitter() -> None:
    assert engine(Faults(slow_factor=3.0), speed=2.0).modelled(4.0) == 6.0
    jittery = engine(jitter=0.25, seed=1)
    durations = [jittery.modelled(1.0) for _ in range(1000)]
    assert 0.75 <= min(durations) < 0.78
    assert 1.22 < max(durations) <= 1.25
    again = engine(jitter=0.25, seed=1)
    assert [again.modelled(1.0) for _ in range(1000)] == durations


async def test_the_event_loop_answers_nobody_while_it_is_blocked() -> None:
    queue = engine()

    def work(turn: Turn) -> None:
        turn.take(0.2)
        turn.block_loop(1.0)
        turn.reach(1.0)

    future = queue.submit("work", work)
    longest, last_s = 0.0, time.monotonic()
    while not future.done():
        await asyncio.sleep(0)
        longest, last_s = max(longest, time.monotonic() - last_s), time.monotonic()
    assert longest >= 0.19


async def test_what_has_ended_is_remembered_with_its_times() -> None:
    queue = engine()

    def work(turn: Turn) -> None:
        turn.weights, turn.samples = "w", 3

    before_s = time.time()
    await queue.run("work", work, request_id="r")
    entry = queue.finished[0]
    assert (entry.id, entry.kind, entry.samples, entry.weights, entry.ok) == ("r", "work", 3, "w", True)
    assert before_s <= entry.queued_s <= entry.started_s <= entry.finished_s <= time.time()
