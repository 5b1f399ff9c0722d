"""A router in front of two workers, and both clients of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.any_client import KINDS, AnyClient, connected
from support.running import RunningRouter, running


@pytest.fixture(scope="session")
def image_workers() -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(SimInThread(SimSettings())).url for _ in range(2)]


@pytest.fixture
async def router(image_workers: list[str]) -> AsyncIterator[RunningRouter]:
    """A router in front of two image workers."""
    async with running(*image_workers) as router:
        yield router


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, router: RunningRouter) -> AsyncIterator[AnyClient]:
    """A client of that router."""
    async with connected(request.param, str(router.client.base_url)) as client:
        yield client
