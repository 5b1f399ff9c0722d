import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from http1.peers import FakeWorker, Peer, eventually, fake_worker, turns
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.http1.certificates import Identity, Trust
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from support.authority import Authority

pytestmark = pytest.mark.loopback

MAX_HEAD = 4096
REQUEST = b"GET / HTTP/1.1\r\nHost: w\r\n\r\n"


class Lost:
    """A pool that counts the ends of connections."""

    def __init__(self) -> None:
        self.connections: list[UpstreamConnection] = []

    def lost(self, connection: UpstreamConnection) -> None:
        self.connections.append(connection)


class Sink:
    """Writes down what it is told; at the end of a reply it lets go of the connection, as an exchange does."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        self.events: list[tuple[Any, ...]] = []
        self.body = b""
        self.ended = False

    def _note(self, *event: Any) -> None:
        assert not self.ended, f"{event} after the end"
        self.events.append(event)

    def _take(self, span: bytes, done: bool) -> None:
        self.body += span
        if done:
            self.ended = True
            self.connection.detach()

    def reply_informed(self, head: ReplyHead) -> None:
        self._note("informed", head.status)

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        self._note("began", head.status)
        self._take(span, done)

    def reply_went_on(self, span: bytes, done: bool) -> None:
        assert not self.ended
        self._take(span, done)

    def reply_broken(self, why: str) -> None:
        self._note("broken", why)
        self.ended = True

    def upstream_ended(self) -> None:
        self._note("eof")

    def upstream_lost(self, error: Exception | None) -> None:
        self._note("lost")
        self.ended = True

    def upstream_full(self) -> None:
        self._note("full")

    def upstream_writable(self) -> None:
        self._note("writable")


class Line:
    """A connection and the worker at its other end."""

    def __init__(self, connection: UpstreamConnection, peer: Peer, pool: Lost) -> None:
        self.connection = connection
        self.peer = peer
        self.pool = pool

    def ask(self, *, to_head: bool = False, decode: bool = False) -> Sink:
        sink = Sink(self.connection)
        self.connection.decode_chunks = decode
        self.connection.send(sink, [REQUEST], to_head=to_head)
        return sink

    async def reply(self, *pieces: bytes, to_head: bool = False, decode: bool = False) -> Sink:
        """Ask, and let the worker answer in pieces that arrive one by one."""
        sink = self.ask(to_head=to_head, decode=decode)
        assert await self.peer.read_head() == REQUEST
        sent = 0
        for piece in pieces:
            sent += len(piece)
            await self.peer.send(piece)
            await eventually(partial(self._has_read, sent))
        return sink

    def _has_read(self, size: int) -> bool:
        return self.connection.bytes_received >= size or self.connection.transport.is_closing()

    async def is_lost(self) -> None:
        await eventually(lambda: self.pool.connections == [self.connection])


async def opened(worker: FakeWorker) -> Line:
    pool = Lost()
    connection = UpstreamConnection(worker.worker_id, pool, MAX_HEAD)
    await asyncio.get_running_loop().create_connection(lambda: connection, worker.url.host, worker.url.port)
    return Line(connection, await worker.accept(), pool)


@pytest.fixture
async def line(worker: FakeWorker) -> AsyncIterator[Line]:
    line = await opened(worker)
    yield line
    line.connection.close()
    await turns()


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
INFORMED = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + SIZED


@pytest.mark.parametrize(
    ("raw", "events", "body"),
    [
        (SIZED, [("began", 200)], b"hello"),
        (CHUNKED, [("began", 200)], b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
        (EMPTY, [("began", 200)], b""),
        (INFORMED, [("informed", 103), ("informed", 100), ("began", 200)], b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", [("began", 204)], b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", [("began", 304)], b""),
    ],
)
async def test_a_reply_in_any_two_pieces_is_the_same(
    line: Line, raw: bytes, events: list[tuple[Any, ...]], body: bytes
) -> None:
    for cut in range(1, len(raw) + 1):
        sink = await line.reply(*filter(None, (raw[:cut], raw[cut:])))
        assert (sink.events, sink.body, sink.ended, line.connection.reusable) == (events, body, True, True)


@pytest.mark.parametrize("raw", [SIZED, CHUNKED, INFORMED])
async def test_a_reply_byte_by_byte_is_the_same(line: Line, raw: bytes) -> None:
    whole = await line.reply(raw)
    sink = await line.reply(*(bytes([byte]) for byte in raw))
    assert (sink.events, sink.body, sink.ended) == (whole.events, whole.body, True)


async def test_chunks_are_decoded_for_who_cannot_read_them(line: Line) -> None:
    for cut in range(1, len(CHUNKED)):
        sink = await line.reply(CHUNKED[:cut], CHUNKED[cut:], decode=True)
        assert (sink.body, sink.ended) == (b"hello", True)


async def test_a_reply_to_head_has_no_body_whatever_it_says(line: Line) -> None:
    for head in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ):
        sink = await line.reply(head, to_head=True)
        assert (sink.events, sink.body, sink.ended, line.connection.reusable) == ([("began", 200)], b"", True, True)


async def test_a_body_without_a_length_ends_with_the_connection(line: Line) -> None:
    sink = await line.reply(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo")
    assert not sink.ended
    await line.peer.close()
    await line.is_lost()
    assert (sink.events, sink.body, sink.ended, line.connection.reusable) == ([("began", 200)], b"hello", True, False)


async def test_a_body_without_a_length_that_is_broken_off_is_lost(line: Line) -> None:
    sink = await line.reply(b"HTTP/1.1 200 OK\r\n\r\nhello")
    line.peer.reset()
    await line.is_lost()
    assert sink.events == [("began", 200), ("lost",)]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        SIZED[:-1],
        CHUNKED[:-1],
        CHUNKED[:-2],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_ends_early_is_lost_once(line: Line, raw: bytes, how: str) -> None:
    sink = await line.reply(*filter(None, [raw]))
    if how == "close":
        await line.peer.close()
    else:
        line.peer.reset()
    await line.is_lost()
    assert sink.events[-1] == ("lost",)
    assert sink.events.count(("lost",)) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD,
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nnonsense\r\n\r\n",
    ],
)
async def test_what_is_not_http_breaks_the_connection(line: Line, raw: bytes) -> None:
    sink = await line.reply(raw)
    await line.is_lost()
    assert sink.events[-1][0] == "broken"


async def test_bad_chunks_after_good_ones_break_the_connection(line: Line) -> None:
    sink = await line.reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"nope\r\n")
    await line.is_lost()
    assert [event[0] for event in sink.events] == ["began", "broken"]
    assert sink.body == b"2\r\nok\r\n"


async def test_a_head_of_the_largest_size_is_read(line: Line) -> None:
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "
    head = start + b"x" * (MAX_HEAD - len(start) - 4) + b"\r\n\r\n"
    assert len(head) == MAX_HEAD
    sink = await line.reply(head)
    assert sink.ended


class TestReuse:
    @pytest.mark.parametrize(
        ("raw", "reusable"),
        [
            (SIZED, True),
            (CHUNKED, True),
            (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", True),
            (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", False),
            (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", False),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
            (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", True),
            (SIZED + b"x", False),
            (CHUNKED + b"x", False),
            (EMPTY + b"x", False),
            (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
            (b"HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\nabc", False),
        ],
    )
    async def test_the_reply_says_whether_the_connection_serves_again(
        self, line: Line, raw: bytes, reusable: bool
    ) -> None:
        sink = await line.reply(raw)
        assert (sink.ended, line.connection.reusable) == (True, reusable)

    @pytest.mark.parametrize("raw", [SIZED, CHUNKED])
    async def test_surplus_after_a_body_that_came_in_pieces_counts_too(self, line: Line, raw: bytes) -> None:
        sink = await line.reply(raw[:-2], raw[-2:] + b"HTTP/1.1 200 OK\r\n")
        body = raw.partition(b"\r\n\r\n")[2]
        assert (sink.ended, sink.body, line.connection.reusable) == (True, body, False)

    @pytest.mark.parametrize("field", [b"Transfer-Encoding: chunked", b"Content-Length: 5"])
    async def test_a_204_that_announces_a_body_is_the_connection_s_last(self, line: Line, field: bytes) -> None:
        """Whether that body is still to come cannot be known, and it must not be taken for the next reply."""
        sink = await line.reply(b"HTTP/1.1 204 No Content\r\n%b\r\n\r\n" % field)
        assert (sink.ended, line.connection.reusable) == (True, False)

    async def test_bytes_that_nobody_asked_for_end_the_connection(self, line: Line) -> None:
        await line.reply(SIZED)
        await line.peer.send(SIZED)
        await line.is_lost()

    async def test_many_requests_in_turn_are_told_apart(self, line: Line) -> None:
        for raw, body in ((SIZED, b"hello"), (EMPTY, b""), (CHUNKED, CHUNKED.partition(b"\r\n\r\n")[2])) * 3:
            sink = await line.reply(raw)
            assert (sink.body, sink.ended, line.connection.reusable) == (body, True, True)


class TestTunnel:
    HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"

    async def test_bytes_pass_raw_in_both_directions(self, line: Line) -> None:
        sink = await line.reply(self.HEAD + b"early", b"\r\n\r\nlate")
        line.connection.write(b"up")
        assert await line.peer.read(2) == b"up"
        assert (sink.events, sink.body, sink.ended) == ([("began", 101)], b"early\r\n\r\nlate", False)

    async def test_the_worker_s_end_leaves_the_other_half_open(self, line: Line) -> None:
        sink = await line.reply(self.HEAD)
        line.peer.half_close()
        await eventually(lambda: ("eof",) in sink.events)
        line.connection.write(b"still here")
        assert await line.peer.read(10) == b"still here"
        line.connection.transport.close()
        await line.is_lost()
        assert sink.events == [("began", 101), ("eof",), ("lost",)]


async def test_a_slow_worker_is_told_of_and_so_is_its_catching_up() -> None:
    async with fake_worker(receive_buffer=4096) as worker:
        line = await opened(worker)
        line.connection.transport.set_write_buffer_limits(high=65536)
        sink = line.ask()
        span = bytes(65536)
        written = 0
        while ("full",) not in sink.events:
            line.connection.write(span)
            written += len(span)
            await turns(2)
            assert written < 64 * 2**20
        assert await line.peer.read(len(REQUEST) + written) == REQUEST + bytes(written)
        await eventually(lambda: sink.events == [("full",), ("writable",)])
        line.connection.close()
        await line.is_lost()


async def test_a_worker_that_takes_nothing_more_is_noticed_and_one_that_takes_a_little_is_not() -> None:
    async with fake_worker() as worker:
        line = await opened(worker)
        line.connection.transport.set_write_buffer_limits(high=65536)
        sink = line.ask()
        line.peer.pause()
        assert not line.connection.is_stalled(0.0, 60.0)
        while line.connection.transport.get_write_buffer_size() < 16 * 2**20:
            line.connection.write(bytes(2**20))
            await turns(2)
        assert sink.events == [("full",)]
        now_s = 100.0
        assert not line.connection.is_stalled(now_s, 60.0)
        assert not line.connection.is_stalled(now_s + 60.0, 60.0)
        assert line.connection.is_stalled(now_s + 61.0, 60.0)
        waiting = line.connection.transport.get_write_buffer_size()
        line.peer.resume()
        while line.connection.transport.get_write_buffer_size() == waiting:
            await line.peer.read(2**17)
        line.peer.pause()
        assert not line.connection.is_stalled(now_s + 200.0, 60.0)
        line.connection.close()
        await line.is_lost()


async def test_a_paused_connection_reads_nothing_more(line: Line) -> None:
    sink = await line.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    line.connection.pause()
    line.connection.pause()
    await line.peer.send(b"world")
    await turns()
    assert sink.body == b"hello"
    line.connection.resume()
    line.connection.resume()
    await eventually(lambda: sink.ended)
    assert sink.body == b"helloworld"


async def test_writing_after_the_end_does_nothing(line: Line) -> None:
    line.ask()
    await line.peer.close()
    await line.is_lost()
    line.connection.write(b"x")
    line.connection.pause()
    line.connection.resume()
    line.connection.close()


async def test_closing_tells_the_sink_nothing(line: Line) -> None:
    sink = await line.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    line.connection.close()
    await line.is_lost()
    assert sink.events == [("began", 200)]
    assert line.connection.worker_id == WorkerId(line.connection.worker_id)


class TestOverTls:
    """A body without a length ends with its connection (RFC 9112 §9.8)."""

    @pytest.fixture
    async def line(self, authority: Authority) -> AsyncIterator[Line]:
        files = authority.issue("127.0.0.1")
        connector = Connector()
        connector.use(Trust(authority.ca).context())
        async with fake_worker(tls=Identity(files.cert, files.key).context()) as worker:
            pool = Lost()
            connection = UpstreamConnection(worker.worker_id, pool, MAX_HEAD)
            await connector.open(worker.url, lambda: connection, timeout_s=5.0)
            line = Line(connection, await worker.accept(), pool)
            yield line
            line.connection.close()
            await turns()

    async def test_one_that_ends_with_a_closure_alert_is_whole(self, line: Line) -> None:
        sink = await line.reply(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await line.peer.close()
        await line.is_lost()
        assert (sink.body, sink.events) == (b"hello", [("began", 200)])

    async def test_one_that_was_cut_is_not(self, line: Line) -> None:
        sink = await line.reply(b"HTTP/1.1 200 OK\r\n\r\nhel")
        line.peer.cut()
        await line.is_lost()
        assert (sink.body, sink.events) == (b"hel", [("began", 200), ("lost",)])

    async def test_a_tunnel_ends_as_a_whole(self, line: Line, caplog: pytest.LogCaptureFixture) -> None:
        sink = await line.reply(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        line.connection.become_tunnel()
        await line.peer.close()
        await line.is_lost()
        assert sink.events == [("began", 101), ("eof",), ("lost",)]
        assert caplog.records == []
