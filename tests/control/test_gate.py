import asyncio

import pytest

from sglang_diffusion_routing.control.gate import Gate
from sglang_diffusion_routing.core.work import Lease, Ticket, WorkSpec
from sglang_diffusion_routing.errors import Aborted, RouterError
from support.fleet import RecordingFleet
from support.running import eventually

pytestmark = pytest.mark.core


class Client:
    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.error: RouterError | None = None

    def granted(self, lease: Lease) -> None:
        self.lease = lease

    def refused(self, error: RouterError) -> None:
        self.error = error


async def test_while_it_is_held_work_waits_and_then_goes_on() -> None:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    gate, client = Gate(fleet), Client()
    assert gate.pause(None) == 0
    assert isinstance(fleet.acquire(WorkSpec(), client), Ticket)
    assert gate.pause(None) == 1
    assert gate.resume() == 0
    assert client.lease is not None


async def test_a_pause_ends_by_itself() -> None:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    gate, client = Gate(fleet), Client()
    gate.pause(0.01)
    fleet.acquire(WorkSpec(), client)

    async def granted() -> bool:
        return client.lease is not None

    await eventually(granted, bool)


async def test_the_last_pause_counts() -> None:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    gate = Gate(fleet)
    gate.pause(0.001)
    gate.pause(None)
    await asyncio.sleep(0.02)
    assert fleet.scheduler.paused
    gate.pause(0.001)
    gate.resume()
    gate.pause(None)
    await asyncio.sleep(0.02)
    assert fleet.scheduler.paused


async def test_what_is_queued_is_dropped_and_nothing_else() -> None:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    gate, running, queued = Gate(fleet), Client(), Client()
    assert isinstance(fleet.acquire(WorkSpec(), running), Lease)
    gate.pause(None)
    fleet.acquire(WorkSpec(), queued)
    assert gate.abort() == 1
    assert isinstance(queued.error, Aborted)
    assert (fleet.scheduler.queued, fleet.scheduler.live_leases) == (0, 1)


@pytest.mark.parametrize(
    ("named", "dropped"),
    [
        ({"request_id": "r1"}, [True, False, False]),
        ({"group": "g"}, [False, True, True]),
        ({"group": "h"}, [False] * 3),
    ],
)
async def test_one_request_or_one_group_is_dropped(named: dict[str, str], dropped: list[bool]) -> None:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    gate, clients = Gate(fleet), [Client(), Client(), Client()]
    gate.pause(None)
    specs = [WorkSpec(request_id="r1"), WorkSpec(request_id="r2", group="g"), WorkSpec(group="g")]
    for spec, client in zip(specs, clients, strict=True):
        fleet.acquire(spec, client)
    assert gate.abort(**named) == sum(dropped)
    assert [isinstance(client.error, Aborted) for client in clients] == dropped
