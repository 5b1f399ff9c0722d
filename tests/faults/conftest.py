"""Two workers behind one router that probes often, all well again before every test."""

from collections.abc import Iterator

import pytest

from support.client import Client, Connect, connections
from support.deadlines import eventually_equal
from support.router import RouterProcess
from support.worker import ScriptedFleet

QUICK_PROBES = ("--health-check-interval", "0.2", "--probe-timeout", "1", "--health-check-failure-threshold", "2")


@pytest.fixture(scope="module")
def module_fleet() -> Iterator[ScriptedFleet]:
    with ScriptedFleet(2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def module_router(module_fleet: ScriptedFleet) -> Iterator[RouterProcess]:
    # A worker that died in one test begins the next one as if it had never been away.
    with RouterProcess(module_fleet.urls, *QUICK_PROBES, "--no-ramp") as router:
        yield router


@pytest.fixture
def fleet(module_fleet: ScriptedFleet, module_router: RouterProcess) -> Iterator[ScriptedFleet]:
    """The module's two workers, both listening, healthy and idle."""
    for worker in module_fleet.restore():
        module_router.revive(worker.url)
    # One that died takes work again when its weights have been looked at.
    eventually_equal(module_router.statuses, dict.fromkeys(module_fleet.urls, "active"))
    module_router.wait_until_idle()
    yield module_fleet
    unexpected = module_fleet.drop_arrivals()
    module_fleet.hang_up()
    assert (module_fleet.take_failures(), unexpected) == ([], [])


@pytest.fixture
def router(fleet: ScriptedFleet, module_router: RouterProcess) -> Iterator[RouterProcess]:
    """The module's router, which must outlive every test."""
    yield module_router
    assert module_router.is_running(), module_router.stderr()


@pytest.fixture
def connect(router: RouterProcess) -> Iterator[Connect]:
    """Open connections to the router, closed at the end of the test."""
    with connections(router.port) as opened:
        yield opened


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()
