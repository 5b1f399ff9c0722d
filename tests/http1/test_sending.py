import socket

import pytest

from http1.exchanges import GET, MEBI, OK, OK_RELAYED, POST, CrampedPool, error_code, under_way
from http1.peers import FakeWorker, eventually, fake_worker
from http1.relaying import Relay, relaying
from sglang_diffusion_routing.core.worker import WorkerUrl

pytestmark = pytest.mark.loopback


class TestEarlyReply:
    async def test_a_reply_before_the_request_is_whole_ends_both_connections(self, relay: Relay) -> None:
        under = await under_way(relay, POST % 10 + b"hello")
        await under.peer.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        assert b"Connection: close\r\n" in await under.client.read_head()
        assert await under.client.read_to_end() == b"no"
        assert await under.exchange.ended() == [("body",), ("end", True, 413)]
        await eventually(lambda: relay.open_connections() == [0])

    async def test_a_request_that_is_whole_by_the_end_of_the_reply_leaves_the_worker_s_connection(
        self, relay: Relay
    ) -> None:
        under = await under_way(relay, POST % 10 + b"hello")
        await under.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi")
        await under.client.read_head()
        await under.client.send(b"world")
        assert await under.peer.read(10) == b"helloworld"
        await under.peer.send(b"ne")
        assert await under.client.read_to_end() == b"fine"
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]
        assert relay.open_connections() == [1]


class TestBackPressure:
    """What the kernels hold on a loopback connection is a few mebibytes at most; the router adds half of one."""

    MOST = 16 * MEBI

    async def test_an_upload_waits_for_a_slow_worker(self) -> None:
        async with fake_worker() as slow, relaying(slow) as relay:
            client = await relay.listener.connect()
            size = 32 * MEBI
            client.writer.write(POST % size + bytes(size))
            peer = await slow.accept()
            peer.pause()
            await eventually(lambda: relay.exchanges[0].upstream)
            assert await client.held_back() > size - self.MOST
            peer.resume()
            await peer.read_head()
            assert await peer.read(size) == bytes(size)
            await peer.send(OK)
            assert await client.read(len(OK_RELAYED)) == OK_RELAYED

    async def test_an_upload_waits_for_a_worker_that_is_slow_from_the_first_byte(self) -> None:
        """What was read ahead fills the new connection at once; what follows must still wait."""
        async with fake_worker(receive_buffer=2304) as slow, relaying(slow, pool=CrampedPool) as relay:
            client = await relay.listener.connect()
            size = 32 * MEBI
            client.writer.write(POST % size + bytes(size))
            peer = await slow.accept()
            peer.pause()
            await eventually(lambda: relay.exchanges[0].upstream)
            assert await client.held_back() > size - self.MOST

    @pytest.mark.parametrize("begun", [False, True])
    async def test_a_worker_that_takes_nothing_of_an_upload_is_given_up(self, relay: Relay, begun: bool) -> None:
        size = 32 * MEBI
        under = await under_way(relay, POST % size)
        under.peer.pause()
        if begun:
            await under.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            await under.client.read_head()
        under.client.writer.write(bytes(size))
        await under.client.held_back()
        relay.listener.pass_time(1)
        relay.listener.pass_time(300)
        assert under.exchange.turns == [("body",)]
        relay.listener.pass_time(1)
        assert await under.exchange.ended() == [("body",), ("end", False, None)]
        assert under.exchange.worker_failed
        if begun:
            assert await under.client.is_cut()
        else:
            assert await error_code(under.client) == (504, "upstream_stalled")
        await eventually(lambda: relay.open_connections() == [0])

    async def test_only_a_little_of_a_body_is_read_before_a_worker_is_there(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            # Its line is full, so that connecting takes for ever.
            full = FakeWorker()
            full.stop()
            full.url = WorkerUrl("http", "127.0.0.1", listener.getsockname()[1])
            with socket.create_connection(listener.getsockname()):
                async with relaying(full) as relay:
                    client = await relay.listener.connect()
                    size = 32 * MEBI
                    client.writer.write(POST % size + bytes(size))
                    await eventually(lambda: relay.exchanges)
                    assert await client.held_back() > size - self.MOST
                    assert 65536 <= sum(map(len, relay.exchanges[0]._kept or ())) <= MEBI
                assert await relay.exchanges[0].ended() == [("body",), ("end", False, None)]

    @pytest.mark.parametrize("framing", ["sized", "chunked", "until close"])
    async def test_a_download_waits_for_a_slow_client(self, relay: Relay, framing: str) -> None:
        under = await under_way(relay)
        under.client.pause()
        size = 32 * MEBI
        body = bytes(size)
        lines = {"sized": b"Content-Length: %d\r\n" % size, "chunked": b"Transfer-Encoding: chunked\r\n"}
        if framing == "chunked":
            body = (b"100000\r\n" + bytes(MEBI) + b"\r\n") * 32 + b"0\r\n\r\n"
        under.peer.writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n" % lines.get(framing, b"") + body)
        assert await under.peer.held_back() > size - self.MOST
        under.client.resume()
        if framing == "until close":
            under.peer.writer.close()
        await under.client.read_head()
        received = 0
        while received < len(body):
            received += len(await under.client.read_some())
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]

    @pytest.mark.parametrize("framing", [b"Content-Length: 33554432\r\n", b"Transfer-Encoding: chunked\r\n", b""])
    async def test_a_client_that_is_behind_already_is_waited_for_from_the_start(
        self, relay: Relay, framing: bytes
    ) -> None:
        """The replies before it, each of which was small, have filled the client's connection."""
        under = await under_way(relay, GET, receive_buffer=4096)
        under.client.pause()
        connection = relay.listener.connections[0]
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await under.client.send(GET)
        small = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + bytes(60000)
        await under.peer.send(small)
        await under.peer.read_head()
        await under.client.send(GET)
        await under.peer.send(small)
        await under.peer.read_head()
        assert connection.is_full
        size = 32 * MEBI
        data = b"%x\r\n" % size + bytes(size) if b"chunked" in framing else bytes(size)
        under.peer.writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + data)
        assert await under.peer.held_back() > size - self.MOST

    async def test_a_connection_that_was_paused_serves_the_next_request(self, relay: Relay) -> None:
        under = await under_way(relay)
        under.client.pause()
        under.peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (8 * MEBI) + bytes(8 * MEBI))
        await eventually(lambda: relay.listener.connections[0].is_full)
        under.client.resume()
        await under.client.read_head()
        await under.client.read(8 * MEBI)
        await under.exchange.ended()
        client = await relay.listener.connect()
        await client.send(GET)
        await under.peer.read_head()
        await under.peer.send(OK)
        assert await client.read(len(OK_RELAYED)) == OK_RELAYED
