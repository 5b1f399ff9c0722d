"""h11, which shares no code with the router or with these tests, reads the same messages as they do."""

from dataclasses import dataclass, field

import h11
import pytest

from support.client import Client, request
from support.exchange import Exchange
from support.wire import chunked
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e


@dataclass
class Read:
    """What h11 made of one message."""

    start: tuple[object, ...] = ()
    names: list[bytes] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended: bool = False


def read_with_h11(connection: h11.Connection, data: bytes, *, closed: bool = False) -> Read:
    """Feed bytes to h11 until it has read one final message; RemoteProtocolError if it finds fault with them."""
    read = Read()
    connection.receive_data(data)
    if closed:
        connection.receive_data(b"")
    while not read.ended:
        match connection.next_event():
            case h11.Request() as head:
                read.start = (head.method, head.target)
                read.names = [name for name, _ in head.headers]
            case h11.Response() as head:
                read.start = (head.status_code,)
                read.names = [name for name, _ in head.headers]
            case h11.InformationalResponse():
                pass
            case h11.Data() as piece:
                read.body += bytes(piece.data)
            case h11.EndOfMessage() as end:
                read.trailers = list(end.headers)
                read.ended = True
            case unexpected:
                raise AssertionError(f"{unexpected!r} with {data!r}")
    return read


def reply_read_by_h11(data: bytes, method: bytes, *, closed: bool = False) -> Read:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "router.test")]))
    connection.send(h11.EndOfMessage())
    return read_with_h11(connection, data, closed=closed)


REPLIES = {
    "sized": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nX-a: 2\r\n\r\nhello",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello", b" world"),
    "chunked, empty": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(),
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello", trailers=b"X-Sum: 1\r\n"),
    "hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    "1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 21\r\n\r\nInternal Server Error",
}


@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in REPLIES.items()])
def test_h11_reads_a_reply_as_we_do(sent: bytes, worker: ScriptedWorker, client: Client) -> None:
    seen = client.seen = bytearray()
    client.send(request(b"GET", b"/x"))
    worker.receive().answer_raw(sent)
    reply = client.read_reply()
    read = reply_read_by_h11(bytes(seen), b"GET")
    assert read.start == (reply.status,)
    assert read.names == [name.lower() for name, _ in reply.fields]
    assert read.body == reply.body
    assert read.trailers == [(name.lower(), value) for name, value in reply.trailers]


def test_h11_reads_a_reply_that_ends_by_closing_as_we_do(worker: ScriptedWorker, client: Client) -> None:
    seen = client.seen = bytearray()
    client.send(request(b"GET", b"/x", b"Connection: close"))
    worker.receive().close(b"HTTP/1.1 200 OK\r\n\r\nhello")
    reply = client.read_reply()
    client.expect_end()
    assert reply_read_by_h11(bytes(seen), b"GET", closed=True).body == reply.body == b"hello"


def test_h11_reads_a_reply_to_head_as_we_do(worker: ScriptedWorker, client: Client) -> None:
    seen = client.seen = bytearray()
    client.send(request(b"HEAD", b"/x"))
    worker.receive().answer_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert client.read_reply("HEAD").status == 200
    assert reply_read_by_h11(bytes(seen), b"HEAD").body == b""


@pytest.mark.parametrize(
    "path", [b"/workers", b"/health", b"/nope/../workers/x", b"/v1/models/unknown", b"/metrics"], ids=bytes.decode
)
def test_h11_reads_the_routers_own_replies_as_we_do(path: bytes, client: Client) -> None:
    seen = client.seen = bytearray()
    reply = client.ask(request(b"GET", path))
    read = reply_read_by_h11(bytes(seen), b"GET")
    assert (read.start, read.body) == ((reply.status,), reply.body)


@pytest.mark.parametrize(
    "bad",
    [request(b"GET", b"/x", b"Host: two"), request(b"BREW", b"/x"), request(b"GET", b"/x", b"Content-Length: -1")],
)
def test_h11_reads_a_refusal_as_we_do(bad: bytes, client: Client) -> None:
    seen = client.seen = bytearray()
    reply = client.ask(bad)
    read = reply_read_by_h11(bytes(seen), b"GET", closed=True)
    assert (read.start, read.body) == ((reply.status,), reply.body)


REQUESTS = {
    "get": request(b"GET", b"/x?y"),
    "sized": request(b"POST", b"/x", b"X-A: 1", b"x-a: 2", body=b"hello"),
    "empty": request(b"POST", b"/x", body=b""),
    "chunked": request(b"POST", b"/x", b"Transfer-Encoding: chunked") + chunked(b"hello", b" world"),
    "trailers": request(b"POST", b"/x", b"Transfer-Encoding: chunked") + chunked(b"hello", trailers=b"X-Sum: 1\r\n"),
    "head": request(b"HEAD", b"/x"),
    "1.0": request(b"POST", b"/x", body=b"hello", version=b"HTTP/1.0"),
    "absolute": request(b"GET", b"http://other.test/y?z"),
}


@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in REQUESTS.items()])
def test_h11_reads_what_a_worker_gets_as_we_do(sent: bytes, worker: ScriptedWorker, client: Client) -> None:
    client.send(sent)
    exchange: Exchange = worker.receive()
    content = exchange.body.content
    read = read_with_h11(h11.Connection(h11.SERVER), exchange.head + exchange.body.raw)
    assert read.start == (exchange.method, exchange.target)
    assert read.names == [name.lower() for name, _ in exchange.fields]
    assert read.body == content
    assert read.trailers == [(name.lower(), value) for name, value in exchange.body.trailers]
    exchange.answer()
    client.read_reply(exchange.method.decode())
