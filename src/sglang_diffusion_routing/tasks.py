"""Start tasks that are named, referenced and supervised.

The event loop keeps only weak references to tasks, so one that nobody holds may vanish in mid-flight
(https://docs.python.org/3/library/asyncio-task.html#asyncio.create_task), and an exception in it may never be seen.
Here every task is held until it ends, and every exception comes out.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

T = TypeVar("T")
OnError = Callable[[BaseException], None]

_log = structlog.get_logger(__name__)
_running: set[asyncio.Task[Any]] = set()
_APART = contextvars.Context()


def _context(*, of_request: bool) -> contextvars.Context:
    """Give what a task knows of the request that caused it, if it is a part of that, or nothing."""
    return contextvars.copy_context() if of_request else _APART.copy()


def spawn(
    coro: Coroutine[Any, Any, T], *, name: str, on_error: OnError | None = None, of_request: bool = False
) -> asyncio.Task[T]:
    """Run `coro` as a task that is held until it ends and whose exception is never lost.

    An exception goes to `on_error`, by default to the log with its cause; whoever awaits the task sees it as well.
    Cancellation is an end, not an error.

    Args:
        name: what the task does, for logs and `asyncio.all_tasks()`.
        on_error: called on the loop right after the task failed.
        of_request: it is a part of what is being done here, and its log lines carry the same request's id. Others are
            begun by a request at most, and may outlive it by days.
    """
    try:
        context = _context(of_request=of_request)
        task = asyncio.create_task(coro, name=name, context=context)  # noqa: TID251 - the one place that may
    except RuntimeError:  # no running loop: close the coroutine, or Python warns that it was never awaited
        coro.close()
        raise
    _running.add(task)
    task.add_done_callback(lambda ended: _settle(ended, on_error))
    return task


def _settle(task: asyncio.Task[Any], on_error: OnError | None) -> None:
    """Let go of an ended task and report its exception."""
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        return
    if on_error is None:
        _log.error("task_failed", task=task.get_name(), exc_info=error)
        return
    try:
        on_error(error)
    except Exception:  # noqa: BLE001 - a task's boundary: the handler's own failure is logged beside the first
        _log.exception("task_error_handler_failed", task=task.get_name(), first_error=repr(error))


class Tasks:
    """The tasks of one owner: they end when it does.

    As an async context manager it cancels what still runs at the end of the block.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Count the tasks that have not ended."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cancel_all()

    def spawn(
        self, coro: Coroutine[Any, Any, T], *, name: str, on_error: OnError | None = None, of_request: bool = False
    ) -> asyncio.Task[T]:
        """Run `coro` as `tasks.spawn` does, owned by this group."""
        task = spawn(coro, name=name, on_error=on_error, of_request=of_request)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel_all(self, *, timeout_s: float = 5.0) -> frozenset[str]:
        """Cancel every task but the caller's own, and wait until they have ended.

        Tasks that a dying one starts are cancelled too.

        Returns:
            names of the tasks that still ran after `timeout_s`; empty when all have ended.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while pending := self._tasks - {asyncio.current_task()}:
            left_s = deadline_s - loop.time()
            if left_s <= 0:
                names = frozenset(task.get_name() for task in pending)
                _log.error("tasks_ignore_cancellation", tasks=sorted(names), waited_s=timeout_s)
                return names
            for task in pending:
                if not task.cancelling():
                    task.cancel()
            await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        return frozenset()
