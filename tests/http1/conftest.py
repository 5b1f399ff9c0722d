"""A worker and a clean loop for every test of the wire."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from http1.peers import FakeWorker, fake_worker
from http1.relaying import Relay, relaying


@pytest.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    async with fake_worker() as worker:
        yield worker


@pytest.fixture
async def other() -> AsyncIterator[FakeWorker]:
    async with fake_worker() as other:
        yield other


@pytest.fixture
async def relay(worker: FakeWorker) -> AsyncIterator[Relay]:
    async with relaying(worker) as relay:
        yield relay


@pytest.fixture
async def pair(worker: FakeWorker, other: FakeWorker) -> AsyncIterator[Relay]:
    async with relaying(worker, other) as relay:
        yield relay


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
