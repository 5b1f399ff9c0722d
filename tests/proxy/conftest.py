"""A clean loop for every test of the proxy."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from proxy.steps import UnreachableWorker
from proxy.world import World, world


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


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world(1) as one:
        yield one


@pytest.fixture
async def two() -> AsyncIterator[World]:
    async with world(2) as two:
        yield two


@pytest.fixture
async def unreachable() -> AsyncIterator[World]:
    """One worker to which connecting never ends."""
    target = UnreachableWorker()
    async with world(0) as unreachable:
        await unreachable.add_worker(started=target.worker)
        yield unreachable
    target.close()
