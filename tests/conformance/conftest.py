"""One router and one worker a module; each test starts with neither knowing of the one before."""

from collections.abc import Iterator

import pytest

from support.client import Client, Connect, connections
from support.router import RouterProcess
from support.worker import ScriptedWorker


@pytest.fixture(scope="module")
def module_worker() -> Iterator[ScriptedWorker]:
    with ScriptedWorker() as worker:
        yield worker


@pytest.fixture(scope="module")
def router(module_worker: ScriptedWorker) -> Iterator[RouterProcess]:
    """No cap: what waits in the queue is no matter of these tests."""
    with RouterProcess([module_worker.url], "--max-concurrency-per-worker", "0") as router:
        router.wait_until_healthy(1)
        yield router
        assert router.is_running(), router.stderr()


@pytest.fixture
def worker(module_worker: ScriptedWorker) -> Iterator[ScriptedWorker]:
    """The module's worker; at the end nothing is left over and all it was sent was strict HTTP."""
    module_worker.handler = None
    yield module_worker
    module_worker.handler = None
    failures, module_worker.failures = module_worker.failures, []
    unexpected = module_worker.drop_arrivals()
    module_worker.hang_up()
    assert (failures, unexpected) == ([], [])


@pytest.fixture
def connect(router: RouterProcess) -> Iterator[Connect]:
    """Open connections to the router, closed at the end of the test."""
    with connections(router.port) as opened:
        yield opened


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()
