"""A router in front of two workers, and a shell."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
import structlog

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter, running
from support.shell import Shell


@pytest.fixture(autouse=True)
def the_routers_log_is_elsewhere() -> Iterator[None]:
    """Keep what the router of this process logs away from what the commands show."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(scope="module")
def workers() -> Iterator[list[SimInThread]]:
    with ExitStack() as stack:
        yield [stack.enter_context(SimInThread()) for _ in range(2)]


@pytest.fixture
async def router(workers: list[SimInThread]) -> AsyncIterator[RunningRouter]:
    async with running(*(worker.url for worker in workers), max_client_connections=100) as router:
        yield router


@pytest.fixture
def shell(router: RunningRouter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(str(router.client.base_url), capsys, monkeypatch)
