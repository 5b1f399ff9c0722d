"""Once a second, what is worth a copy gets one: see test_racing for what becomes of it."""

import pytest

from http1.peers import eventually
from proxy.steps import make_known, seeded, started
from proxy.world import reply, serve, sized, world
from sglang_diffusion_routing.proxy import server

pytestmark = pytest.mark.loopback


@pytest.mark.parametrize("hedge", [True, False])
async def test_the_listener_s_own_tick_makes_copies_when_asked_to(hedge: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TICK_S", 0.01)
    async with world(2, hedge=hedge) as two:
        client, original, number = await started(two, seeded())
        make_known(two, number)
        ticked_s = two.plane.now_s
        if hedge:
            await serve(await two.accept(), sized(b"copy"))
            assert (await reply(client))[2] == b"copy"
            await original.send(sized())
        else:
            await eventually(lambda: two.plane.now_s > ticked_s + 0.03)
            assert two.in_flight()[1 - number] == 0
            await original.send(sized(b"original"))
            assert (await reply(client))[2] == b"original"


async def test_the_one_that_takes_longest_comes_first() -> None:
    async with world(3, hedge=True) as three:
        client, original, number = await started(three, seeded())
        shorter, other, second = await started(three, seeded().replace(b"1000000", b"1000"))
        assert second != number
        make_known(three, number)
        server.copy_stragglers(three.plane._shared)
        copy = await three.accept()
        await serve(copy, sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        for peer in (original, other):
            await peer.send(sized())
        assert (await reply(shorter))[0] == 200
