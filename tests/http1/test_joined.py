import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from http1.peers import FakeWorker, Peer, eventually, turns
from http1.relaying import Relay, relaying
from sglang_diffusion_routing.errors import UpstreamTimeout
from sglang_diffusion_routing.http1.pool import WRITE_HIGH_WATER_BYTES

pytestmark = pytest.mark.loopback

POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_RELAYED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Relay: 1\r\n\r\nok"
CHUNKS = b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX: 1\r\n\r\n"
MEBI = 2**20


@pytest.fixture
async def relay(worker: FakeWorker) -> AsyncIterator[Relay]:
    async with relaying(worker) as relay:
        relay.joins = True
        yield relay


async def first(relay: Relay, request: bytes = POST) -> tuple[Peer, Peer]:
    """Send the request that the others join; give its client and the worker that has it whole."""
    client = await relay.listener.connect()
    await client.send(request)
    peer = await relay.workers[0].accept()
    await peer.read_head()
    await peer.read(5)
    await eventually(lambda: relay.exchanges[0].body_done)
    return client, peer


async def join(relay: Relay, request: bytes = POST, *, receive_buffer: int | None = None) -> Peer:
    known = len(relay.joined)
    client = await relay.listener.connect(receive_buffer=receive_buffer)
    await client.send(request)
    await eventually(lambda: len(relay.joined) > known)
    return client


async def error_code(client: Peer) -> tuple[int, str]:
    head = await client.read_head()
    length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), json.loads(await client.read(length))["code"]


async def test_all_get_the_reply_and_the_worker_one_request(relay: Relay) -> None:
    client, peer = await first(relay)
    others = [await join(relay) for _ in range(3)]
    await peer.send(OK[:-1], OK[-1:])
    for each in (client, *others):
        assert await each.read(len(OK_RELAYED)) == OK_RELAYED
    assert await relay.exchanges[0].ended() == [("body",), ("end", True, 200)]
    assert (len(relay.exchanges), relay.open_connections()) == (1, [1])


@pytest.mark.parametrize(
    ("reply", "relayed"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
            b"HTTP/1.1 200 OK\r\nX-Relay: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        ),
        (
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nX-Relay: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 204 No\r\nX-Relay: 1\r\n\r\n"),
    ],
)
async def test_a_reply_of_any_framing_reaches_all(relay: Relay, reply: bytes, relayed: bytes) -> None:
    client, peer = await first(relay)
    other = await join(relay)
    await peer.send(reply)
    if b"Transfer" not in reply and b"204" not in reply:
        await peer.close()
    for each in (client, other):
        assert await each.read(len(relayed)) == relayed


async def test_each_connection_goes_on_or_closes_as_its_own_client_wants(relay: Relay) -> None:
    closing = POST.replace(b"Host", b"Connection: close\r\nHost")
    client, peer = await first(relay)
    leaves = await join(relay, closing)
    stays = await join(relay)
    await peer.send(OK)
    assert await client.read(len(OK_RELAYED)) == OK_RELAYED
    raw = await leaves.read_to_end()
    assert raw == OK_RELAYED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert await stays.read(len(OK_RELAYED)) == OK_RELAYED
    relay.joins = False
    await stays.send(POST)
    await peer.read_head()
    await peer.read(5)
    await peer.send(OK)
    assert await stays.read(len(OK_RELAYED)) == OK_RELAYED


async def test_a_first_client_that_wants_to_close_closes_only_its_own(relay: Relay) -> None:
    client, peer = await first(relay, POST.replace(b"Host", b"Connection: close\r\nHost"))
    other = await join(relay)
    await peer.send(OK)
    assert b"Connection: close\r\n" in await client.read_to_end()
    assert await other.read(len(OK_RELAYED)) == OK_RELAYED


async def test_the_body_of_a_repeat_is_read_and_dropped(relay: Relay) -> None:
    client, peer = await first(relay)
    other = await join(relay, POST[:-3])
    await other.send(POST[-3:])
    await turns()
    await peer.send(OK)
    for each in (client, other):
        assert await each.read(len(OK_RELAYED)) == OK_RELAYED
    assert relay.open_connections() == [1]


class TestTooEarlyOrLate:
    async def test_before_the_first_body_is_whole(self, relay: Relay) -> None:
        client = await relay.listener.connect()
        await client.send(POST[:-1])
        await relay.workers[0].accept()
        other = await relay.listener.connect()
        await other.send(POST)
        await eventually(lambda: relay.refused_to_join == 1)
        assert relay.joined == []

    async def test_after_the_reply_has_begun(self, relay: Relay) -> None:
        client, peer = await first(relay)
        await peer.send(OK[:-1])
        await client.read_head()
        other = await relay.listener.connect()
        await other.send(POST)
        await eventually(lambda: relay.refused_to_join == 1)

    async def test_after_the_end(self, relay: Relay) -> None:
        _, peer = await first(relay)
        await peer.send(OK)
        await relay.exchanges[0].ended()
        other = await relay.listener.connect()
        await other.send(POST)
        await eventually(lambda: relay.refused_to_join == 1)

    async def test_in_the_middle_of_a_reply_that_is_dropped(self, relay: Relay) -> None:
        client, peer = await first(relay)
        await client.close()
        await eventually(lambda: ("orphaned",) in relay.exchanges[0].turns)
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await turns()
        other = await relay.listener.connect()
        await other.send(POST)
        await eventually(lambda: relay.refused_to_join == 1)


class TestLeaving:
    async def test_the_first_may_leave(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        await client.close()
        await eventually(lambda: relay.exchanges[0].downstream is None)
        await peer.send(OK)
        assert await other.read(len(OK_RELAYED)) == OK_RELAYED
        assert await relay.exchanges[0].ended() == [("body",), ("end", True, 200)]

    async def test_the_other_may_leave(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        await other.close()
        await eventually(lambda: relay.joined[0].downstream is None)
        await peer.send(OK)
        assert await client.read(len(OK_RELAYED)) == OK_RELAYED
        assert await relay.exchanges[0].ended() == [("body",), ("end", True, 200)]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    async def test_when_all_have_left_the_reply_is_awaited_for_the_worker_s_sake(
        self, relay: Relay, order: tuple[int, int]
    ) -> None:
        client, peer = await first(relay)
        clients = [client, await join(relay)]
        await clients[order[0]].close()
        await turns()
        assert ("orphaned",) not in relay.exchanges[0].turns
        await clients[order[1]].close()
        await eventually(lambda: ("orphaned",) in relay.exchanges[0].turns)
        await peer.send(OK)
        assert await relay.exchanges[0].ended() == [("body",), ("orphaned",), ("end", True, 200)]

    async def test_one_who_comes_back_gets_the_reply_after_all(self, relay: Relay) -> None:
        client, peer = await first(relay)
        await client.close()
        await eventually(lambda: ("orphaned",) in relay.exchanges[0].turns)
        other = await join(relay)
        await peer.send(OK)
        assert await other.read(len(OK_RELAYED)) == OK_RELAYED
        assert await relay.exchanges[0].ended() == [("body",), ("orphaned",), ("rejoined",), ("end", True, 200)]

    async def test_leaving_in_the_middle_of_the_reply_leaves_it_to_the_others(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await client.read_head()
        await client.close()
        await eventually(lambda: relay.exchanges[0].downstream is None)
        await peer.send(b"world")
        await other.read_head()
        assert await other.read(10) == b"helloworld"


class TestFailures:
    async def test_an_error_reaches_all(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        await peer.close()
        assert await error_code(client) == (502, "upstream_died")
        assert await error_code(other) == (502, "upstream_died")
        assert await relay.exchanges[0].ended() == [("body",), ("died", True), ("end", False, None)]

    async def test_a_reply_that_breaks_off_breaks_all_off(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        await peer.send(OK[:-1])
        await client.read_head()
        await other.read_head()
        await peer.close()
        assert await client.is_cut()
        assert await other.is_cut()

    async def test_an_answer_that_comes_too_late_is_refused_to_all(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        relay.exchanges[0].fail_and_await(UpstreamTimeout("w", 1.0))
        assert await error_code(client) == (504, "upstream_timeout")
        assert await error_code(other) == (504, "upstream_timeout")
        await peer.send(OK)
        assert await relay.exchanges[0].ended() == [("body",), ("orphaned",), ("end", True, 200)]


class TestBackPressure:
    def cramp(self, relay: Relay, number: int) -> None:
        """Leave as little as possible to the kernel, so that the router has it."""
        sock = relay.listener.connections[number].transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    async def test_the_slowest_client_holds_up_the_worker(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        other.pause()
        size = 32 * MEBI
        reading = asyncio.ensure_future(client.read(size))
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await eventually(lambda: relay.joined[0].full)
        assert not reading.done()
        assert await peer.held_back() > 8 * MEBI
        kept_bytes = [connection.transport.get_write_buffer_size() for connection in relay.listener.connections]
        # Above the mark lies at most one read of the worker's connection, of up to 256 KiB.
        assert max(kept_bytes) <= WRITE_HIGH_WATER_BYTES + 256 * 1024
        other.resume()
        assert (await other.read_head()).startswith(b"HTTP/1.1 200 ")
        assert await other.read(size) == bytes(size)
        await reading
        await relay.exchanges[0].ended()

    async def test_the_only_one_left_holds_up_the_worker(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        await client.close()
        await eventually(lambda: relay.exchanges[0].downstream is None)
        other.pause()
        size = 32 * MEBI
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        assert await peer.held_back() > 8 * MEBI
        other.resume()
        await other.read_head()
        assert await other.read(size) == bytes(size)

    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_a_slow_client_that_leaves_holds_up_nobody(self, relay: Relay, how: str) -> None:
        client, peer = await first(relay)
        other = await join(relay)
        other.pause()
        size = 32 * MEBI
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await client.read_head()
        await eventually(lambda: relay.joined[0].full)
        if how == "reset":
            other.reset()
        else:
            await other.drop()
        assert await client.read(size) == bytes(size)

    async def test_a_client_that_is_slow_at_the_very_end_leaves_a_connection_that_reads(self, relay: Relay) -> None:
        client, peer = await first(relay)
        other = await join(relay, receive_buffer=4096)
        other.pause()
        self.cramp(relay, 1)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 120000\r\n\r\n" + bytes(60000))
        await client.read_head()
        await client.read(60000)
        # The last piece is the one that is too much for the slow client.
        await peer.send(bytes(60000))
        await client.read(60000)
        await relay.exchanges[0].ended()
        assert relay.listener.connections[1].is_full
        relay.joins = False
        await client.send(POST)
        await peer.read_head()
        await peer.read(5)
        await peer.send(OK)
        assert await client.read(len(OK_RELAYED)) == OK_RELAYED
