"""An attempt by itself: what it is to its owner, its worker and the budget."""

import pytest

from http1.peers import eventually
from proxy.steps import copied, seeded
from proxy.world import reply, sized, world
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.work import Result

pytestmark = pytest.mark.loopback


async def test_a_worker_that_is_to_be_removed_ends_what_it_has_left_first() -> None:
    async with world(2, hedge=True) as two:
        client, original, copy, number = await copied(two)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        worker = two.workers[number]
        record = two.record(worker)
        two.fleet.apply(ev.RemovalRequested(worker.worker_id))
        assert record.state is WorkerState.DRAINING
        await original.send(sized())
        await eventually(lambda: record.state is WorkerState.REMOVED)
        await two.released((1 - number, Result.OK, 200), (number, Result.OK, 200))


async def test_a_copy_on_a_worker_that_is_to_be_removed_goes_on() -> None:
    async with world(2, hedge=True) as two:
        client, original, copy, number = await copied(two)
        worker = two.workers[1 - number]
        two.fleet.apply(ev.RemovalRequested(worker.worker_id))
        await copy.send(sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        assert two.fleet.pool.get(worker.worker_id) is None
        await original.send(sized())


@pytest.mark.parametrize("size", [10, 9000])
async def test_an_error_that_nobody_gets_still_speaks_of_its_worker(size: int) -> None:
    async with world(2, hedge=True) as two:
        client, original, copy, number = await copied(two)
        await original.send(sized(b"original"))
        assert (await reply(client))[0] == 200
        await copy.send(sized(b"x" * size, b"503 Unavailable"))
        await two.released((number, Result.OK, 200), (1 - number, Result.SERVER_ERROR, 503))


async def test_little_is_kept_of_an_error_that_nobody_gets() -> None:
    async with world(2, hedge=True) as two:
        client, original, copy, number = await copied(two)
        await copy.send(b"HTTP/1.1 503 Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            await copy.send(b"1000\r\n" + bytes(4096) + b"\r\n")
        (attempt,) = two.plane._shared.attempts
        assert sum(map(len, attempt._held)) < 100_000
        await copy.send(b"0\r\n\r\n")
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"


async def test_a_worker_that_says_it_sleeps_is_believed() -> None:
    async with world(2, hedge=True) as two:
        client, original, copy, number = await copied(two)
        asleep = b'{"detail":"Server is sleeping. Call resume_memory_occupation first."}'
        await copy.send(sized(asleep, b"500 Internal Server Error"))
        await eventually(lambda: two.record(two.workers[1 - number]).state is WorkerState.SLEEPING)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"
        await two.released((1 - number, Result.ASLEEP, 500), (number, Result.OK, 200))


async def test_a_switch_of_protocols_is_no_answer() -> None:
    async with world(2, hedge=True) as two:
        client, original, copy, number = await copied(two)
        await copy.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"
        await two.released((1 - number, Result.DIED, 0), (number, Result.OK, 200))


async def test_interim_replies_and_a_reply_in_pieces_change_nothing() -> None:
    async with world(2, hedge=True) as two:
        client, original, copy, _ = await copied(two)
        await copy.send(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n", sized(b"copy")[:9])
        await copy.send(sized(b"copy")[9:])
        assert (await reply(client))[::2] == (200, b"copy")
        await original.send(sized())


async def test_its_connection_serves_others_afterwards() -> None:
    async with world(2, hedge=True) as two:
        client, original, copy, number = await copied(two)
        await original.send(sized(b"original"))
        assert (await reply(client))[0] == 200
        await copy.send(sized(b"copy"))
        await two.released((number, Result.OK, 200), (1 - number, Result.OK, 200))
        assert two.connections() == [1, 1]
        await client.send(seeded())
        await eventually(lambda: sum(two.in_flight()) == 1)
        assert two.accepted.empty()
        await (original if two.in_flight()[number] else copy).read_head()
        await (original if two.in_flight()[number] else copy).send(sized())
        assert (await reply(client))[0] == 200
