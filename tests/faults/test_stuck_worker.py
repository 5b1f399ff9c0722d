"""A worker that is stuck keeps nobody waiting for whom another worker could do the same."""

from collections.abc import Iterator

import pytest

from support.client import Client, ask, request
from support.deadlines import eventually_equal
from support.router import RouterProcess
from support.worker import ScriptedFleet

pytestmark = pytest.mark.e2e

# Small enough that the pieces by which the workers become known are soon done.
SEEDED = request(b"POST", b"/rollout/generate", body=b'{"prompt": "x", "seed": 7, "num_inference_steps": 1}')
UNSEEDED = request(b"POST", b"/rollout/generate", body=b'{"prompt": "x", "num_inference_steps": 1}')


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    with ScriptedFleet(2) as fleet:
        yield fleet
        fleet.hang_up()


def make_known(router: RouterProcess, fleet: ScriptedFleet) -> None:
    """Let each worker show how fast it is; what is done within a few milliseconds is learned of together."""
    for worker in fleet.workers:
        pin = b"x-sglang-router-worker: " + worker.url.encode()
        with Client(router.port) as client:
            while speeds(router)[worker.url] is None:
                client.send(UNSEEDED.replace(b"\r\n\r\n", b"\r\n" + pin + b"\r\n\r\n", 1))
                exchange = fleet.receive()
                assert exchange.worker is worker
                exchange.answer()
                assert client.read_reply("POST").status == 200


def speeds(router: RouterProcess) -> dict[str, float | None]:
    return {worker["url"]: worker["speed"] for worker in router.get("/workers")["workers"]}


def counted(router: RouterProcess, metric: bytes) -> bytes:
    lines = ask(router.port, request(b"GET", b"/metrics")).body.splitlines()
    (line,) = (line for line in lines if line.startswith(metric + b" "))
    return line.split()[1]


def test_late_work_is_copied_and_its_worker_stays_charged(fleet: ScriptedFleet) -> None:
    with RouterProcess(fleet.urls, "--hedge") as router, Client(router.port) as client:
        router.wait_until_healthy(2)
        make_known(router, fleet)
        client.send(SEEDED)
        stuck = fleet.receive()
        body = stuck.body.raw
        copy = fleet.receive()
        assert copy.worker is fleet.other(stuck.worker)
        assert copy.body.raw == body
        copy.answer(body=b"made")
        reply = client.read_reply("POST")
        assert (reply.status, reply.body) == (200, b"made")
        assert reply.values(b"x-sglang-router-worker") == [copy.worker.url.encode()]
        eventually_equal(router.in_flight, {stuck.worker.url: 1, copy.worker.url: 0})
        assert counted(router, b"sgld_router_hedges_won_total") == b"1.0"
        stuck.answer(body=b"late")
        eventually_equal(router.in_flight, dict.fromkeys(fleet.urls, 0))


def test_without_a_seed_there_is_no_copy(fleet: ScriptedFleet) -> None:
    # By speed the second could go behind the first: what they have learned of each other is a matter of microseconds.
    flags = ("--hedge", "--routing-algorithm", "least-request")
    with RouterProcess(fleet.urls, *flags) as router, Client(router.port) as client, Client(router.port) as other:
        router.wait_until_healthy(2)
        make_known(router, fleet)
        client.send(UNSEEDED)
        stuck = fleet.receive()
        # One that came later has its copy: the router has looked at this one, too.
        other.send(SEEDED)
        late = fleet.receive()
        assert late.worker is fleet.other(stuck.worker)
        stuck.answer(body=b"made")
        assert client.read_reply("POST").body == b"made"
        copy = fleet.receive()
        assert copy.worker is stuck.worker
        assert b'"seed"' in copy.body.raw
        copy.answer(body=b"copy")
        assert other.read_reply("POST").body == b"copy"
        late.answer()


def test_what_is_too_late_goes_elsewhere_when_asked_to(fleet: ScriptedFleet) -> None:
    flags = ("--timeout", "0.5", "--retry-on", "timeout")
    with RouterProcess(fleet.urls, *flags) as router, Client(router.port) as client:
        router.wait_until_healthy(2)
        client.send(UNSEEDED)
        stuck = fleet.receive()
        second = fleet.receive()
        assert second.worker is fleet.other(stuck.worker)
        second.answer(body=b"made")
        assert client.read_reply("POST").body == b"made"
        eventually_equal(router.in_flight, {stuck.worker.url: 1, second.worker.url: 0})
        stuck.answer()
        eventually_equal(router.in_flight, dict.fromkeys(fleet.urls, 0))
