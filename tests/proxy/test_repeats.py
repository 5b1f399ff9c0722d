import json
from collections.abc import AsyncIterator

import pytest

from http1.peers import Peer, eventually, turns
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.errors import Aborted

pytestmark = pytest.mark.loopback

KEY = b"Idempotency-Key: k-1"


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world(1) as one:
        yield one


def keyed(body: bytes = b"{}", *fields: bytes, path: bytes = b"/rollout/generate", key: bytes = KEY) -> bytes:
    return post(path, body, key, *fields)


async def first(world: World, request: bytes | None = None) -> tuple[Peer, Peer]:
    """Let a keyed request come to the worker whole; give its client and the worker's connection."""
    client = await world.ask(request or keyed())
    peer = await world.accept()
    await serve(peer)
    return client, peer


async def refusal(client: Peer) -> tuple[int, str, bytes | None]:
    """Read an error of the router: its status, its code, and when to come back."""
    status, fields, body = await reply(client)
    return status, json.loads(body)["code"], fields.get(b"retry-after")


async def code(client: Peer) -> tuple[int, str]:
    return (await refusal(client))[:2]


async def serve_anew(world: World) -> None:
    """Send the keyed request once more: a worker gets it on a new connection, for the key is free."""
    client = await world.ask(keyed())
    await serve(await world.accept(), sized(b"anew"))
    assert (await reply(client))[2] == b"anew"


async def test_a_repeat_of_what_runs_gets_the_same_reply_and_no_lease(one: World) -> None:
    client, peer = await first(one)
    repeats = [await one.ask(keyed()) for _ in range(2)]
    await turns(100)
    assert one.in_flight() == [1]
    await peer.send(sized(b"once"))
    for each in (client, *repeats):
        assert (await reply(each))[2] == b"once"
    await one.released((0, Result.OK, 200))
    assert one.accepted.empty()


async def test_a_repeat_of_what_is_queued_joins_it_too() -> None:
    async with world(1, cap=1) as one:
        busy, peer = await first(one, post())
        client = await one.ask(keyed())
        await eventually(lambda: one.fleet.scheduler.queued == 1)
        repeat = await one.ask(keyed())
        await turns(100)
        assert one.fleet.scheduler.queued == 1
        await peer.send(sized())
        await reply(busy)
        await serve(peer, sized(b"once"))
        for each in (client, repeat):
            assert (await reply(each))[2] == b"once"
        await one.released((0, Result.OK, 200), (0, Result.OK, 200))


TERMS = [
    b"x-sglang-router-cost: 3",
    b"x-sglang-router-group: g",
    b"x-sglang-router-min-weight-version: 0",
    b"x-sglang-router-priority: 3",
    b"x-sglang-router-tenant: t",
    b"x-sglang-router-worker: %b",
]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.split(b":")[0].decode())
async def test_a_repeat_on_other_terms_is_another_request(one: World, term: bytes) -> None:
    term = term.replace(b"%b", one.workers[0].worker_id.encode())
    for first_fields, other_fields in (([], [term]), ([term], []), ([term], [term + b"x"])):
        client, peer = await first(one, keyed(b"{}", *first_fields))
        assert await code(await one.ask(keyed(b"{}", *other_fields))) == (422, "idempotency_key_reused")
        same = await one.ask(keyed(b"{}", *first_fields))
        await turns(100)
        await peer.send(sized(b"once"))
        assert [(await reply(each))[2] for each in (client, same)] == [b"once"] * 2
        await peer.close()


async def test_a_repeat_may_wait_for_another_time(one: World) -> None:
    client, peer = await first(one, keyed(b"{}", b"x-sglang-router-queue-timeout: 60"))
    repeat = await one.ask(keyed(b"{}", b"x-sglang-router-queue-timeout: 50"))
    await turns(100)
    await peer.send(sized(b"once"))
    assert [(await reply(each))[2] for each in (client, repeat)] == [b"once"] * 2


async def test_a_client_that_comes_back_gets_what_it_left(one: World) -> None:
    client, peer = await first(one)
    await client.close()
    await eventually(lambda: one.plane.counters.orphans == 1)
    again = await one.ask(keyed())
    await turns(100)
    await peer.send(sized(b"once"))
    assert (await reply(again))[2] == b"once"
    await one.released((0, Result.OK, 200))


async def test_one_that_came_back_is_not_given_up_for_the_first_s_sake() -> None:
    async with world(1, orphan_timeout_s=0.1) as one:
        client, peer = await first(one)
        await client.close()
        await eventually(lambda: one.plane.counters.orphans == 1)
        again = await one.ask(keyed())
        began_s = one.fleet.now_s()
        await eventually(lambda: one.fleet.now_s() > began_s + 0.15)
        await peer.send(sized(b"once"))
        assert (await reply(again))[2] == b"once"


async def test_one_that_comes_back_to_half_a_small_reply_is_not_given_up_either() -> None:
    async with world(1, orphan_timeout_s=0.1) as one:
        client, peer = await first(one, keyed(path=b"/v1/videos"))
        answer = sized(b'{"error":"x"}', b"202 Accepted")
        await peer.send(answer[:-5])
        await client.close()
        await eventually(lambda: one.plane.counters.orphans_now == 1)
        again = await one.ask(keyed(path=b"/v1/videos"))
        await eventually(lambda: one.plane.counters.orphans_now == 0)
        began_s = one.fleet.now_s()
        await eventually(lambda: one.fleet.now_s() > began_s + 0.15)
        await peer.send(answer[-5:])
        assert (await reply(again))[2] == b'{"error":"x"}'
        await one.released((0, Result.OK, 202))


async def test_one_that_came_back_waits_no_longer_than_any_other() -> None:
    async with world(1, timeout_s=0.1) as one:
        _, peer = await first(one)
        for _ in range(2):
            again = await one.ask(keyed())
            assert await code(again) == (504, "upstream_timeout")
        assert one.in_flight() == [1]
        await peer.send(sized())
        await one.released((0, Result.OK, 200))


async def test_a_failure_reaches_all_and_another_worker_serves_all() -> None:
    async with world(2) as two:
        client, peer = await first(two)
        repeat = await two.ask(keyed())
        await turns(100)
        await peer.close()
        second = await two.accept()
        await serve(second, sized(b"second"))
        for each in (client, repeat):
            assert (await reply(each))[2] == b"second"


async def test_a_failure_reaches_all_when_only_the_repeat_still_waits() -> None:
    async with world(2) as two:
        client, peer = await first(two)
        repeat = await two.ask(keyed())
        await turns(100)
        await client.close()
        await eventually(lambda: two.plane.counters.connections_now == 1)
        await peer.close()
        second = await two.accept()
        await serve(second, sized(b"second"))
        assert (await reply(repeat))[2] == b"second"


async def test_a_first_client_that_leaves_the_queue_leaves_its_place_to_the_repeat() -> None:
    async with world(1, cap=1) as one:
        busy, peer = await first(one, post())
        client = await one.ask(keyed())
        await eventually(lambda: one.fleet.scheduler.queued == 1)
        repeat = await one.ask(keyed())
        await turns(100)
        await client.close()
        await eventually(lambda: one.plane.counters.connections_now == 2)
        assert one.fleet.scheduler.queued == 1
        await peer.send(sized())
        await reply(busy)
        await serve(peer, sized(b"once"))
        assert (await reply(repeat))[2] == b"once"
        await one.released((0, Result.OK, 200), (0, Result.OK, 200))


async def test_the_queue_is_left_when_all_have_left() -> None:
    async with world(1, cap=1) as one:
        busy, peer = await first(one, post())
        clients = [await one.ask(keyed())]
        await eventually(lambda: one.fleet.scheduler.queued == 1)
        clients.append(await one.ask(keyed()))
        await turns(100)
        for client in clients:
            assert one.fleet.scheduler.queued == 1
            await client.close()
            await turns(100)
        await eventually(lambda: one.fleet.scheduler.queued == 0)
        await peer.send(sized())
        await reply(busy)
        await one.released((0, Result.OK, 200))


async def test_a_refusal_from_the_queue_reaches_all_and_frees_the_key() -> None:
    async with world(1, cap=1) as one:
        busy, peer = await first(one, post())
        client = await one.ask(keyed())
        await eventually(lambda: one.fleet.scheduler.queued == 1)
        repeat = await one.ask(keyed())
        await turns(100)
        assert one.fleet.drop_queued(Aborted()) == 1
        for each in (client, repeat):
            assert await code(each) == (499, "aborted")
        await peer.send(sized())
        await reply(busy)
        await client.send(keyed())
        await serve(peer, sized(b"anew"))
        assert (await reply(client))[2] == b"anew"
        await one.released((0, Result.OK, 200), (0, Result.OK, 200))


async def test_a_reply_goes_on_for_the_repeat_when_the_first_leaves_in_the_middle(one: World) -> None:
    client, peer = await first(one)
    repeat = await one.ask(keyed())
    await turns(100)
    await peer.send(sized(b"0123456789")[:-5])
    await client.read_head()
    await client.close()
    await eventually(lambda: one.plane.counters.connections_now == 1)
    assert one.in_flight() == [1]
    await peer.send(b"56789")
    assert (await reply(repeat))[2] == b"0123456789"
    await one.released((0, Result.OK, 200))


async def test_a_reply_that_breaks_off_breaks_all_off_and_frees_the_key(one: World) -> None:
    client, peer = await first(one)
    repeat = await one.ask(keyed())
    await turns(100)
    await peer.send(sized(b"0123456789")[:-5])
    for each in (client, repeat):
        await each.read_head()
    await peer.close()
    for each in (client, repeat):
        assert await each.is_cut()
    await one.released((0, Result.DIED, 200))
    await serve_anew(one)


async def test_the_last_death_is_told_to_all_and_frees_the_key() -> None:
    async with world(1, retries=0) as one:
        client, peer = await first(one)
        repeat = await one.ask(keyed())
        await turns(100)
        await peer.close()
        for each in (client, repeat):
            assert await code(each) == (502, "upstream_died")
        await one.released((0, Result.DIED, 0))
        await serve_anew(one)


async def test_a_client_that_comes_back_to_a_dying_worker_is_told_so() -> None:
    """The body was dropped when nobody wanted the reply, so that it cannot be sent to another worker."""
    async with world(2) as two:
        client, peer = await first(two)
        await client.close()
        await eventually(lambda: two.plane.counters.orphans_now == 1)
        again = await two.ask(keyed())
        await eventually(lambda: two.plane.counters.orphans_now == 0)
        await peer.close()
        assert await code(again) == (502, "upstream_died")
        await serve_anew(two)


async def test_work_that_is_given_up_frees_its_key() -> None:
    async with world(1, on_disconnect="cancel") as one:
        client, _ = await first(one)
        await client.close()
        await one.released((0, Result.ABANDONED, 0))
        await serve_anew(one)


async def test_after_the_end_the_key_is_free(one: World) -> None:
    client, peer = await first(one)
    await peer.send(sized(b"first"))
    assert (await reply(client))[2] == b"first"
    again = await one.ask(keyed())
    await serve(peer, sized(b"second"))
    assert (await reply(again))[2] == b"second"
    await one.released((0, Result.OK, 200), (0, Result.OK, 200))


async def test_after_a_refusal_the_key_is_free() -> None:
    async with world(0) as none:
        client = await none.ask(keyed())
        assert await code(client) == (503, "no_routable_worker")
        await none.add_worker()
        await client.send(keyed())
        await serve(await none.accept(), sized())
        assert (await reply(client))[0] == 200


class TestRefusals:
    @pytest.mark.parametrize(
        "other",
        [
            keyed(b"a longer body"),
            keyed(path=b"/rollout/generate?x"),
            keyed(path=b"/v1/diffusion/generate"),
            keyed().replace(b"POST", b"PUT"),
        ],
    )
    async def test_a_key_is_for_one_request(self, one: World, other: bytes) -> None:
        client, peer = await first(one)
        assert await code(await one.ask(other)) == (422, "idempotency_key_reused")
        await peer.send(sized())
        assert (await reply(client))[0] == 200

    async def test_a_repeat_of_an_upload_under_way_comes_too_early(self, one: World) -> None:
        client = await one.ask(keyed(b"hello", path=b"/upload")[:-1])
        peer = await one.accept()
        await peer.read_head()
        assert await refusal(await one.ask(keyed(b"hello", path=b"/upload"))) == (409, "idempotency_key_in_use", b"1")
        await client.send(b"o")
        assert await peer.read(5) == b"hello"
        await peer.send(sized())
        assert (await reply(client))[0] == 200

    async def test_a_repeat_of_a_reply_under_way_comes_too_late(self, one: World) -> None:
        client, peer = await first(one)
        await peer.send(sized(b"x" * 10)[:-5])
        await client.read_head()
        assert await refusal(await one.ask(keyed())) == (409, "idempotency_key_in_use", b"1")
        await peer.send(b"x" * 5)
        assert await client.read(10) == b"x" * 10


class TestKeys:
    @pytest.mark.parametrize(
        ("fields", "key"),
        [
            ([], b"Idempotency-Key: k-2"),
            ([], b"X: 1"),
            ([b"Authorization: Bearer other"], KEY),
            ([b"X-Api-Key: other"], KEY),
        ],
    )
    async def test_another_key_or_another_client_s_is_another_request(
        self, one: World, fields: list[bytes], key: bytes
    ) -> None:
        client, peer = await first(one)
        other = await one.ask(keyed(b"{}", *fields, key=key))
        second = await one.accept()
        await serve(second, sized(b"other"))
        assert (await reply(other))[2] == b"other"
        await peer.send(sized(b"first"))
        assert (await reply(client))[2] == b"first"

    async def test_the_same_client_s_is_the_same(self, one: World) -> None:
        mine = b"Authorization: Bearer mine"
        client, peer = await first(one, keyed(b"{}", mine))
        repeat = await one.ask(keyed(b"{}", mine))
        await turns(100)
        await peer.send(sized(b"once"))
        for each in (client, repeat):
            assert (await reply(each))[2] == b"once"

    async def test_the_worker_sees_the_key(self, one: World) -> None:
        client = await one.ask(keyed())
        assert KEY + b"\r\n" in await serve(await one.accept(), sized())
        await reply(client)

    @pytest.mark.parametrize(
        "request_",
        [
            get(b"/stats", KEY),
            post(b"/rollout/generate", b"{}", KEY).replace(b"HTTP/1.1", b"HTTP/1.0"),
            get(b"/v1/realtime_video/generate", KEY, b"Upgrade: websocket", b"Connection: Upgrade"),
        ],
    )
    async def test_reads_tunnels_and_http_1_0_are_not_joined(self, one: World, request_: bytes) -> None:
        clients = [await one.ask(request_) for _ in range(2)]
        for _ in clients:
            peer = await one.accept()
            await serve(peer, sized(b"own"))
        for client in clients:
            assert (await reply(client))[2] == b"own"
        await one.released(*[(0, Result.OK, 200)] * 2)


async def test_a_job_is_created_once(one: World) -> None:
    client, peer = await first(one, keyed(path=b"/v1/videos"))
    repeat = await one.ask(keyed(path=b"/v1/videos"))
    await turns(100)
    await peer.send(sized(b'{"id":"v1"}'))
    for each in (client, repeat):
        assert (await reply(each))[2] == b'{"id":"v1"}'
    assert len(one.plane.jobs) == 1
    one.lose(one.workers[0])
    await one.released((0, Result.DIED, 0))


async def test_where_another_field_tells_clients_apart_their_keys_are_different_keys() -> None:
    async with world(1, tenant_field="x-user") as one:
        clients = [await one.ask(keyed(b"{}", b"x-user: " + name)) for name in (b"alice", b"bob", b"bob")]
        peers = [await one.accept(), await one.accept()]
        for peer in peers:
            await serve(peer)
        await turns(100)
        assert one.in_flight() == [2]
        for peer in peers:
            await peer.send(sized())
        assert [(await reply(client))[0] for client in clients] == [200] * 3
        await one.released(*[(0, Result.OK, 200)] * 2)
