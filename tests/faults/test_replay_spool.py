"""Large bodies on disk, kept for another worker: a death costs time, a full disk costs no more than that."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.client import Client, request
from support.deadlines import eventually_equal
from support.exchange import Exchange
from support.mounts import Mount, mounted
from support.router import RouterProcess
from support.worker import ScriptedFleet

pytestmark = pytest.mark.e2e

MIB = 2**20
DISK = 8 * MIB
FITS, TOO_LARGE = os.urandom(4 * MIB), os.urandom(12 * MIB)


def used_bytes(disk: Mount) -> int:
    status = os.statvfs(disk.path)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.fixture
def disk() -> Iterator[Mount]:
    with mounted(size_bytes=DISK) as disk:
        yield disk


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    with ScriptedFleet(2) as fleet:
        yield fleet
        fleet.hang_up()


@contextmanager
def spooling(disk: Mount, fleet: ScriptedFleet, *flags: str) -> Iterator[RouterProcess]:
    sizes = ("--replay-spool-max-bytes", "64MiB", "--replay-spool-dir", str(disk.path))
    with RouterProcess(fleet.urls, *sizes, *flags) as router:
        router.wait_until_healthy(2)
        yield router


def upload(router: RouterProcess, fleet: ScriptedFleet, client: Client, body: bytes) -> Exchange:
    """Let a body come to a worker whole."""
    sending = threading.Thread(target=client.send, args=(request(b"POST", b"/rollout/generate", body=body),))
    sending.start()
    exchange = fleet.receive()
    assert exchange.body.raw == body
    sending.join()
    return exchange


def test_a_death_costs_nothing_and_nothing_is_left_on_the_disk(disk: Mount, fleet: ScriptedFleet) -> None:
    with spooling(disk, fleet) as router, Client(router.port) as client:
        first = upload(router, fleet, client, FITS)
        eventually_equal(lambda: used_bytes(disk) >= len(FITS), True)
        assert list(disk.path.iterdir()) == []
        first.worker.die()
        second = fleet.receive()
        assert second.worker is fleet.other(first.worker)
        assert second.body.raw == FITS
        second.answer(body=b"made")
        assert client.read_reply("POST").body == b"made"
        eventually_equal(lambda: used_bytes(disk), 0)


def test_a_disk_that_is_full_costs_the_failover_and_nothing_else(disk: Mount, fleet: ScriptedFleet) -> None:
    with spooling(disk, fleet) as router, Client(router.port) as client:
        upload(router, fleet, client, TOO_LARGE).answer(body=b"made")
        assert client.read_reply("POST").body == b"made"
        upload(router, fleet, client, TOO_LARGE).close()
        reply = client.read_reply("POST")
        assert (reply.status, reply.code) == (502, "upstream_died")
        # What the large ones had is there again.
        eventually_equal(lambda: used_bytes(disk), 0)
        upload(router, fleet, client, FITS).close()
        second = fleet.receive()
        assert second.body.raw == FITS
        second.answer(body=b"made")
        assert client.read_reply("POST").body == b"made"
        assert router.stderr().count("replay_spool_failed") <= 2


def test_room_that_comes_back_is_used_again(disk: Mount, fleet: ScriptedFleet) -> None:
    with spooling(disk, fleet) as router, Client(router.port) as client:
        disk.fill()
        upload(router, fleet, client, FITS).answer(body=b"made")
        assert client.read_reply("POST").body == b"made"
        disk.free()
        upload(router, fleet, client, FITS).close()
        second = fleet.receive()
        assert second.body.raw == FITS
        second.answer(body=b"made")
        assert client.read_reply("POST").body == b"made"


def test_a_router_that_is_killed_leaves_nothing_on_the_disk(disk: Mount, fleet: ScriptedFleet) -> None:
    with spooling(disk, fleet) as router, Client(router.port) as client:
        upload(router, fleet, client, FITS)
        eventually_equal(lambda: used_bytes(disk) >= len(FITS), True)
        router.kill()
        eventually_equal(lambda: used_bytes(disk), 0)


def test_bodies_together_have_a_bound(disk: Mount, fleet: ScriptedFleet) -> None:
    bound = ("--replay-spool-total-bytes", "6MiB")
    with spooling(disk, fleet, *bound) as router, Client(router.port) as one, Client(router.port) as two:
        kept = upload(router, fleet, one, FITS)
        upload(router, fleet, two, FITS).close()
        assert two.read_reply("POST").status == 502
        kept.close()
        again = fleet.receive()
        assert again.body.raw == FITS
        again.answer(body=b"made")
        assert one.read_reply("POST").body == b"made"


def test_memory_does_not_grow_with_them(fleet: ScriptedFleet) -> None:
    body = bytes(24 * MIB)
    with mounted(size_bytes=128 * MIB) as disk, spooling(disk, fleet, "--max-concurrency-per-worker", "0") as router:
        clients = [Client(router.port) for _ in range(4)]
        upload(router, fleet, clients[0], FITS).answer()
        clients[0].read_reply("POST")
        before = router.rss_bytes()
        exchanges = [upload(router, fleet, client, body) for client in clients]
        eventually_equal(lambda: used_bytes(disk) >= 4 * len(body), True)
        dying = exchanges[0].worker
        moved = sum(exchange.worker is dying for exchange in exchanges)
        dying.die()
        for exchange in exchanges:
            if exchange.worker is not dying:
                exchange.answer()
        for _ in range(moved):
            exchange = fleet.receive()
            assert exchange.body.raw == body
            exchange.answer()
        assert [client.read_reply("POST").status for client in clients] == [200] * 4
        assert router.peak_rss_bytes() - before < 24 * MIB
        for client in clients:
            client.close()
