import pytest

from http1.exchanges import GET, MEBI, OK, OK_RELAYED, POST, under_way
from http1.peers import eventually, turns
from http1.relaying import Relay

pytestmark = pytest.mark.loopback


class TestClientLeaves:
    async def test_while_the_worker_is_being_connected_to(self, relay: Relay) -> None:
        client = await relay.listener.connect()
        client.writer.write(GET)
        client.reset()
        # The reset arrives before, within or after the few turns that connecting takes: all end alike.
        await eventually(lambda: relay.listener.gone)
        if relay.exchanges and ("orphaned",) in relay.exchanges[0].turns:
            relay.exchanges[0].give_up()
        for exchange in relay.exchanges:
            assert (await exchange.ended())[-1] == ("end", False, None)
        await eventually(lambda: relay.open_connections() == [0])

    async def test_while_it_is_still_sending(self, relay: Relay) -> None:
        under = await under_way(relay, POST % 10 + b"hello")
        await under.client.close()
        assert await under.exchange.ended() == [("body",), ("end", False, None)]
        assert await under.peer.read(5) == b"hello"
        await under.peer.is_cut()
        assert relay.open_connections() == [0]

    async def test_while_the_worker_works_its_reply_is_awaited_and_dropped(self, relay: Relay) -> None:
        under = await under_way(relay, POST % 5 + b"hello")
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.read(5)
        await under.peer.send(OK)
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", True, 200)]
        assert relay.open_connections() == [1]
        client = await relay.listener.connect()
        await client.send(GET)
        await under.peer.read_head()
        await under.peer.send(OK)
        assert await client.read(len(OK_RELAYED)) == OK_RELAYED

    async def test_a_large_reply_whose_length_is_known_is_not_waited_for(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", True, 200)]
        await eventually(lambda: relay.open_connections() == [0])

    @pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n", b""])
    async def test_a_reply_of_unknown_length_is_dropped_to_its_end(self, relay: Relay, framing: bytes) -> None:
        under = await under_way(relay)
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n1\r\nx\r\n")
        await turns()
        assert under.exchange.turns == [("body",), ("orphaned",)]
        await under.peer.send(b"0\r\n\r\n")
        if not framing:
            await under.peer.close()
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", True, 200)]

    async def test_in_the_middle_of_a_sized_reply_the_worker_is_done(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await under.client.read_head()
        await under.client.close()
        assert await under.exchange.ended() == [("body",), ("end", False, None)]
        await eventually(lambda: relay.open_connections() == [0])

    async def test_in_the_middle_of_a_chunked_reply_the_worker_is_not(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await under.client.read_head()
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.send(b"1\r\ny\r\n", b"0\r\n\r\n")
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", True, 200)]
        assert relay.open_connections() == [1]

    async def test_behind_with_reading_the_worker_s_reply_is_still_read_to_its_end(self, relay: Relay) -> None:
        under = await under_way(relay)
        under.client.pause()
        chunk = b"100000\r\n" + bytes(MEBI) + b"\r\n"
        under.peer.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 32)
        await eventually(lambda: relay.listener.connections[0].is_full)
        under.client.reset()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.send(b"0\r\n\r\n")
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", True, 200)]

    async def test_while_a_reply_is_held_it_is_still_seen_whole(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nX-Hold: 1\r\nContent-Length: 10\r\n\r\nhello")
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.send(b"world")
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", True, 200)]
        assert under.exchange.held == [b"helloworld"]

    async def test_a_reply_that_is_held_after_it_left_is_seen_whole(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nX-Hold: 1\r\nContent-Length: 10\r\n\r\nhello", b"world")
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", True, 200)]
        assert under.exchange.held == [b"helloworld"]

    async def test_and_the_worker_dies_as_well(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.close()
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", False, None)]
        assert under.exchange.worker_failed

    async def test_and_it_is_given_up_at_last(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        under.exchange.give_up()
        under.exchange.give_up()
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", False, None)]
        await eventually(lambda: relay.open_connections() == [0])
