"""Tests of the supervised tasks."""

import asyncio
import gc
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from sglang_diffusion_routing import tasks
from sglang_diffusion_routing.tasks import Tasks, spawn

pytestmark = pytest.mark.core


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as entries:
        yield entries


async def fail(error: Exception) -> None:
    raise error


async def test_a_task_returns_its_result_under_its_name() -> None:
    async def answer() -> int:
        return 42

    task = spawn(answer(), name="deep-thought")
    assert (task.get_name(), await task) == ("deep-thought", 42)


async def test_a_task_that_nobody_holds_survives_garbage_collection() -> None:
    woken = asyncio.Event()
    done = asyncio.Event()

    async def wait_and_finish() -> None:
        await woken.wait()
        done.set()

    spawn(wait_and_finish(), name="held")
    await asyncio.sleep(0)
    gc.collect()
    woken.set()
    await asyncio.wait_for(done.wait(), 5)


async def test_an_ended_task_is_let_go() -> None:
    async def nothing() -> None: ...

    task = spawn(nothing(), name="short")
    assert task in tasks._running
    await task
    await asyncio.sleep(0)
    assert task not in tasks._running


async def test_an_exception_is_logged_with_its_cause(logged: list[Any]) -> None:
    error = ValueError("broken")
    task = spawn(fail(error), name="doomed")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert logged == [{"event": "task_failed", "log_level": "error", "task": "doomed", "exc_info": error}]


async def test_an_exception_goes_to_its_handler_instead_of_the_log(logged: list[Any]) -> None:
    error, seen = ValueError("broken"), []
    task = spawn(fail(error), name="doomed", on_error=seen.append)
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert (seen, logged) == ([error], [])


async def test_an_exception_still_reaches_whoever_awaits_the_task(logged: list[Any]) -> None:
    with pytest.raises(ValueError, match="broken"):
        await spawn(fail(ValueError("broken")), name="doomed")


async def test_a_handler_that_fails_is_logged_beside_the_first_error(logged: list[Any]) -> None:
    def bad_handler(error: BaseException) -> None:
        raise KeyError("handler")

    task = spawn(fail(ValueError("broken")), name="doomed", on_error=bad_handler)
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert logged == [
        {
            "event": "task_error_handler_failed",
            "log_level": "error",
            "task": "doomed",
            "first_error": "ValueError('broken')",
            "exc_info": True,
        }
    ]


async def test_the_loop_never_reports_an_unretrieved_exception(logged: list[Any]) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    spawn(fail(ValueError("broken")), name="doomed")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert reports == []


async def test_a_cancelled_task_is_no_error(logged: list[Any]) -> None:
    task = spawn(asyncio.Event().wait(), name="waiting")
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert logged == []


def test_spawning_without_a_loop_leaves_no_coroutine_behind() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        spawn(fail(ValueError("never runs")), name="too-early")
    gc.collect()  # "never awaited" would come out here, and warnings are errors


async def test_cancel_all_waits_until_every_task_has_cleaned_up() -> None:
    cleaned: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(name)

    group = Tasks()
    for name in ("a", "b"):
        group.spawn(work(name), name=name)
    await asyncio.sleep(0)
    assert len(group) == 2
    assert await group.cancel_all() == frozenset()
    assert (sorted(cleaned), len(group)) == (["a", "b"], 0)


async def test_cancel_all_ends_tasks_that_a_dying_task_starts() -> None:
    group = Tasks()

    async def last_words() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            group.spawn(asyncio.Event().wait(), name="born-late")

    group.spawn(last_words(), name="dying")
    await asyncio.sleep(0)
    assert await group.cancel_all() == frozenset()
    assert len(group) == 0


async def test_cancel_all_spares_the_task_that_calls_it() -> None:
    group = Tasks()
    ended: list[frozenset[str]] = []

    async def end_the_others() -> None:
        ended.append(await group.cancel_all())

    other = group.spawn(asyncio.Event().wait(), name="other")
    await group.spawn(end_the_others(), name="caller")
    assert (ended, other.cancelled()) == ([frozenset()], True)


async def test_cancel_all_names_the_tasks_that_ignore_it(logged: list[Any]) -> None:
    group = Tasks()
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = group.spawn(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    assert await group.cancel_all(timeout_s=0.02) == frozenset({"stubborn"})
    assert [entry["event"] for entry in logged] == ["tasks_ignore_cancellation"]
    release.set()
    await task


async def test_leaving_the_block_cancels_what_still_runs() -> None:
    async with Tasks() as group:
        task = group.spawn(asyncio.Event().wait(), name="waiting")
    assert task.cancelled()


async def test_a_task_knows_nothing_of_the_request_that_caused_it_unless_it_is_a_part_of_it() -> None:
    request: ContextVar[str] = ContextVar("request", default="none")

    async def read() -> str:
        return request.get()

    request.set("r-1")
    async with Tasks() as tasks:
        part = tasks.spawn(read(), name="part", of_request=True)
        caused = tasks.spawn(read(), name="caused")
        assert (await part, await caused) == ("r-1", "none")
