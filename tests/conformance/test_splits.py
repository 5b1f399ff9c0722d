"""However TCP cuts the bytes, the same messages come out."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.client import Client, request
from support.router import RouterProcess
from support.wire import chunked
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

# Without shrinking: a lost byte costs a whole deadline each time, and the examples are small as they are.
few_examples = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
contents = st.binary(max_size=600) | st.just(b"\r\n\r\n") | st.just(b"0\r\n\r\n") | st.just(b"HTTP/1.1 200 OK\r\n\r\n")
pieces = st.lists(contents.filter(bool), max_size=4)
cuts = st.lists(st.integers(min_value=1, max_value=2000), max_size=8)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[start:end] for start, end in pairwise(edges)]


def framed_request(number: int, body: bytes | list[bytes] | None) -> tuple[bytes, bytes]:
    """Give a request as bytes, and the content of its body."""
    if body is None:
        return request(b"GET", b"/%d" % number), b""
    if isinstance(body, bytes):
        return request(b"POST", b"/%d" % number, body=body), body
    return request(b"POST", b"/%d" % number, b"Transfer-Encoding: chunked") + chunked(*body), b"".join(body)


def framed_reply(body: bytes | list[bytes], *, hints: bool) -> tuple[bytes, bytes]:
    """Give a reply as bytes, and the content of its body."""
    head = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" if hints else b""
    head += b"HTTP/1.1 200 OK\r\nX-A: b\r\n"
    if isinstance(body, bytes):
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, body
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*body), b"".join(body)


@few_examples
@given(bodies=st.lists(st.none() | contents | pieces, min_size=1, max_size=3), places=cuts)
def test_requests_cut_anywhere_arrive_whole_and_in_order(
    router: RouterProcess, worker: ScriptedWorker, bodies: list[bytes | list[bytes] | None], places: list[int]
) -> None:
    framed = [framed_request(number, body) for number, body in enumerate(bodies)]
    with Client(router.port) as client:
        client.send(*cut(b"".join(sent for sent, _ in framed), places))
        for number, (_, content) in enumerate(framed):
            exchange = worker.receive()
            assert (exchange.target, exchange.body.content) == (b"/%d" % number, content)
            exchange.answer(body=b"%d" % number)
            assert client.read_reply().body == b"%d" % number


@few_examples
@given(bodies=st.lists(contents | pieces, min_size=1, max_size=3), hints=st.booleans(), places=cuts)
def test_replies_cut_anywhere_arrive_whole(
    router: RouterProcess,
    worker: ScriptedWorker,
    bodies: list[bytes | list[bytes]],
    hints: bool,
    places: list[int],
) -> None:
    with Client(router.port) as client:
        for body in bodies:
            sent, content = framed_reply(body, hints=hints)
            client.send(request(b"GET", b"/x"))
            worker.receive().answer_raw(*cut(sent, places))
            reply = client.read_reply()
            assert (reply.body, len(reply.interim)) == (content, int(hints))


def test_a_request_byte_by_byte_arrives_whole(worker: ScriptedWorker, client: Client) -> None:
    sent = request(b"POST", b"/x", b"Transfer-Encoding: chunked") + chunked(
        b"hello", b" world", trailers=b"X-Sum: 1\r\n"
    )
    client.send(*(sent[at : at + 1] for at in range(len(sent))))
    exchange = worker.receive()
    assert exchange.body.content == b"hello world"
    exchange.answer()
    assert client.read_reply().body == b"ok"


def test_a_reply_byte_by_byte_arrives_whole(worker: ScriptedWorker, client: Client) -> None:
    sent, _ = framed_reply([b"hello", b" world"], hints=True)
    client.send(request(b"GET", b"/x"))
    worker.receive().answer_raw(*(sent[at : at + 1] for at in range(len(sent))))
    assert client.read_reply().body == b"hello world"


def test_a_tunnel_handshake_byte_by_byte_passes(worker: ScriptedWorker, client: Client) -> None:
    sent = request(b"GET", b"/ws", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x")
    client.send(*(sent[at : at + 1] for at in range(len(sent))))
    exchange = worker.receive()
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst"
    exchange.send(*(switching[at : at + 1] for at in range(len(switching))))
    assert client.read_reply().status == 101
    assert client.read_exactly(5) == b"first"
    exchange.close()
