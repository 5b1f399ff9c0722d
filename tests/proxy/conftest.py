"""A clean loop for every test of the proxy."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog


@pytest.fixture(autouse=True)
async def _nothing_goes_wrong_unseen() -> AsyncIterator[None]:
    """Fail when a callback or a task of the router raised, or when a task outlives its test."""
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    before = asyncio.all_tasks()
    with structlog.testing.capture_logs() as logs:
        yield
        left = [task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()]
    assert failures == []
    assert [entry for entry in logs if entry["log_level"] in {"error", "critical"}] == []
    assert left == []
