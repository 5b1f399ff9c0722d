"""Workers in threads, shared by the tests of a module; a router for every test, or one for those that change nothing.

A test that uses a `shared` router runs on the loop of its module: `@pytest.mark.asyncio(loop_scope="module")`.
"""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.running import RunningRouter, running


@pytest.fixture(scope="module")
def image_worker() -> Iterator[SimInThread]:
    with SimInThread() as worker:
        yield worker


@pytest.fixture(scope="module")
def video_worker() -> Iterator[SimInThread]:
    with SimInThread(SimSettings(model="wan")) as worker:
        yield worker


@pytest.fixture(scope="module")
def slow_worker() -> Iterator[SimInThread]:
    """A worker whose every image takes 0.6 s: long enough to act while one is made."""
    with SimInThread(SimSettings(overhead_seconds=0.6)) as worker:
        yield worker


@pytest.fixture
async def empty() -> AsyncIterator[RunningRouter]:
    """A router without workers."""
    async with running() as router:
        yield router


@pytest.fixture
async def router(image_worker: SimInThread) -> AsyncIterator[RunningRouter]:
    """A router with one image worker."""
    async with running(image_worker.url) as router:
        yield router


@pytest.fixture
async def slow_router(slow_worker: SimInThread) -> AsyncIterator[RunningRouter]:
    """A router with one slow worker."""
    async with running(slow_worker.url) as router:
        yield router


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_empty() -> AsyncIterator[RunningRouter]:
    """A router without workers, for requests that it refuses."""
    async with running() as router:
        yield router


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_router(image_worker: SimInThread) -> AsyncIterator[RunningRouter]:
    """A router with one image worker, for requests that it refuses."""
    async with running(image_worker.url) as router:
        yield router
