"""A clean loop for every test of the proxy."""

from collections.abc import AsyncIterator

import pytest

from proxy.steps import UnreachableWorker
from proxy.world import World, world
from support.clean_loop import clean_loop


@pytest.fixture(autouse=True)
async def _nothing_goes_wrong_unseen() -> AsyncIterator[None]:
    async with clean_loop():
        yield


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
