"""An event loop on which nothing goes wrong unseen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog


@asynccontextmanager
async def clean_loop() -> AsyncIterator[None]:
    """Fail when a callback or a task of the router raised, when an error was logged, or when a task is left over."""
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    before = asyncio.all_tasks()
    with structlog.testing.capture_logs() as logs:
        yield
        left = [task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()]
    assert failures == []
    assert [entry for entry in logs if entry["log_level"] in {"error", "critical"}] == []
    assert left == []
