import json

import pytest

from http1.peers import eventually
from proxy.world import post, reply, serve, sized, world
from sglang_diffusion_routing.errors import TooManyConnections, TooManyConnectionsOfClient
from sglang_diffusion_routing.proxy.crowd import REFUSALS_AT_ONCE, REFUSALS_PER_CLIENT, Crowd, client_of


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_host_is_one_client_under_all_its_addresses(address: str, client: str) -> None:
    assert client_of(address) == client


def test_one_too_many_altogether_is_told_so_and_many_too_many_are_not() -> None:
    crowd = Crowd(2, per_client=0)
    errors = []
    for number in range(REFUSALS_AT_ONCE + 3):
        crowd.enter(str(number))
        errors.append(crowd.excess(str(number), speaks_for_many=False))
        assert crowd.is_flooded(str(number)) is (number == REFUSALS_AT_ONCE + 2)
    assert [error is None for error in errors[:4]] == [True, True, False, False]
    assert isinstance(errors[2], TooManyConnections)


def test_one_client_too_many_leaves_others_alone() -> None:
    crowd = Crowd(1000, per_client=1)
    for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        crowd.enter(address)
    assert isinstance(crowd.excess("10.0.0.1", speaks_for_many=False), TooManyConnectionsOfClient)
    assert crowd.excess("10.0.0.1", speaks_for_many=True) is None
    assert crowd.excess("10.0.0.2", speaks_for_many=False) is None
    crowd.leave("10.0.0.1")
    assert crowd.excess("10.0.0.1", speaks_for_many=False) is None
    for _ in range(REFUSALS_PER_CLIENT + 1):
        crowd.enter("10.0.0.1")
    assert (crowd.is_flooded("10.0.0.1"), crowd.is_flooded("10.0.0.2"), crowd.now) == (True, False, 19)


def test_nothing_is_kept_of_clients_that_have_gone() -> None:
    crowd = Crowd(1000, per_client=1)
    for number in range(100):
        crowd.enter(f"10.0.0.{number}")
        crowd.leave(f"10.0.0.{number}")
    assert (crowd.now, len(crowd._by_client)) == (0, 0)


@pytest.mark.loopback
class TestOverSockets:
    async def test_one_connection_too_many_of_a_client_is_told_so(self) -> None:
        async with world(1, max_connections_per_client=2) as one:
            first, _ = await one.connect(), await one.connect()
            await eventually(lambda: one.plane.counters.connections_now == 2)
            third = await one.ask(post())
            status, fields, body = await reply(third)
            assert (status, json.loads(body)["code"]) == (429, "too_many_connections_of_client")
            assert (fields[b"connection"], fields[b"retry-after"]) == (b"close", b"1")
            await third.close()
            await first.close()
            await eventually(lambda: one.plane.counters.connections_now == 1)
            fourth = await one.ask(post())
            await serve(await one.accept(), sized())
            assert (await reply(fourth))[0] == 200

    async def test_a_trusted_proxy_speaks_for_many(self) -> None:
        async with world(1, max_connections_per_client=1, trusted_peers="127.0.0.0/8") as one:
            await one.connect()
            second = await one.ask(post())
            await serve(await one.accept(), sized())
            assert (await reply(second))[0] == 200
