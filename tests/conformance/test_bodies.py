"""Bytes out equal bytes in: bodies of every size and framing, both ways."""

import random

import pytest

from support.client import Client, Connect, request
from support.exchange import Exchange
from support.router import RouterProcess
from support.wire import chunk, chunked
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

SIZES = [0, 1, 2, 15, 16, 255, 4095, 4096, 4097, 65_535, 65_536, 65_537, 131_073, 300_000]


def pieces(data: bytes, rng: random.Random, most: int = 12) -> list[bytes]:
    """Cut at a few random places."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(most)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if end > start]


@pytest.mark.parametrize("size", SIZES)
def test_a_sized_request_body_arrives_whole(size: int, worker: ScriptedWorker, client: Client) -> None:
    body = random.Random(size).randbytes(size)
    client.send(request(b"POST", b"/x", body=body))
    exchange = worker.receive()
    assert exchange.values(b"content-length") == [b"%d" % size]
    assert exchange.body.content == body
    exchange.answer()
    assert client.read_reply().status == 200


@pytest.mark.parametrize("size", SIZES)
def test_a_chunked_request_body_arrives_whole(size: int, worker: ScriptedWorker, client: Client) -> None:
    rng = random.Random(size)
    body = rng.randbytes(size)
    client.send(request(b"POST", b"/x", b"Transfer-Encoding: chunked"), chunked(*pieces(body, rng)))
    exchange = worker.receive()
    assert exchange.values(b"transfer-encoding") == [b"chunked"]
    assert exchange.values(b"content-length") == []
    assert exchange.body.content == body
    exchange.answer()
    assert client.read_reply().status == 200


@pytest.mark.parametrize("size", SIZES)
def test_a_sized_reply_body_arrives_whole(size: int, worker: ScriptedWorker, client: Client) -> None:
    body = random.Random(size).randbytes(size)
    client.send(request(b"GET", b"/x"))
    worker.receive().answer(body=body)
    reply = client.read_reply()
    assert reply.framing == "sized"
    assert reply.body == body


@pytest.mark.parametrize("size", SIZES)
def test_a_chunked_reply_body_arrives_whole(size: int, worker: ScriptedWorker, client: Client) -> None:
    rng = random.Random(size)
    body = rng.randbytes(size)
    client.send(request(b"GET", b"/x"))
    worker.receive().answer_chunked(*pieces(body, rng))
    reply = client.read_reply()
    assert reply.framing == "chunked"
    assert reply.body == body


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_a_reply_body_that_ends_with_the_connection_arrives_whole(
    size: int, worker: ScriptedWorker, client: Client
) -> None:
    body = random.Random(size).randbytes(size)
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.close(b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n" + body)
    assert client.read_reply().body == body


@pytest.mark.parametrize("seed", range(25))
def test_random_bodies_in_random_pieces_arrive_whole_both_ways(
    seed: int, worker: ScriptedWorker, connect: Connect
) -> None:
    """Several exchanges on one connection, each way sized or chunked, cut anywhere."""
    rng = random.Random(seed)
    client = connect()
    for _ in range(3):
        there, back = (rng.randbytes(rng.choice([0, 1, rng.randrange(3000), rng.randrange(300_000)])) for _ in "12")
        if rng.random() < 0.5:
            sent = request(b"POST", b"/x", body=there)
        else:
            sent = request(b"POST", b"/x", b"Transfer-Encoding: chunked") + chunked(*pieces(there, rng))
        client.send(*pieces(sent, rng, 6))
        exchange = worker.receive()
        assert exchange.body.content == there
        if rng.random() < 0.5:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(back), back)
        else:
            answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*pieces(back, rng))
        exchange.answer_raw(*pieces(answer, rng, 6))
        assert client.read_reply().body == back


def test_bodies_pass_both_ways_at_the_same_time(worker: ScriptedWorker, client: Client) -> None:
    """A worker may answer while it still reads."""
    client.send(request(b"POST", b"/x", b"Transfer-Encoding: chunked"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.read_head()
    for number in range(20):
        piece = b"%d," % number
        client.send(chunk(piece))
        assert exchange.stream.read_exactly(len(chunk(piece))).endswith(piece + b"\r\n")
        exchange.send(chunk(piece))
        assert client.read_exactly(len(chunk(piece))) == chunk(piece)
    client.send(b"0\r\n\r\n")
    assert exchange.stream.read_exactly(5) == b"0\r\n\r\n"
    exchange.send(b"0\r\n\r\n")
    assert client.read_exactly(5) == b"0\r\n\r\n"
    exchange.finish()


def test_a_request_is_streamed_before_it_is_whole(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", b"Content-Length: 10") + b"first")
    exchange = worker.receive()
    assert exchange.stream.read_exactly(5) == b"first"
    client.send(b"12345")
    assert exchange.stream.read_exactly(5) == b"12345"
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    exchange.finish()
    assert client.read_reply().status == 200


def test_a_reply_is_streamed_before_it_is_whole(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
    client.read_head()
    assert client.read_exactly(5) == b"first"
    exchange.send(b"12345")
    assert client.read_exactly(5) == b"12345"
    exchange.finish()


def test_a_reply_head_passes_before_its_body(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.read_head().startswith(b"HTTP/1.1 200 ")
    exchange.send(b"0\r\n\r\n")
    assert client.read_chunked().content == b""
    exchange.finish()


def test_good_chunk_extensions_do_not_become_content(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", b"Transfer-Encoding: chunked"))
    client.send(chunk(b"hello", b";a") + chunk(b" world", b';b=1;c="d;e"') + b"0;last\r\n\r\n")
    exchange = worker.receive()
    assert exchange.body.content == b"hello world"
    exchange.answer()
    assert client.read_reply().status == 200


def test_chunk_sizes_may_be_written_in_any_case_and_padded(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", b"Transfer-Encoding: chunked"))
    client.send(b"00A\r\n0123456789\r\nb\r\n0123456789a\r\n000\r\n\r\n")
    exchange = worker.receive()
    assert exchange.body.content == b"01234567890123456789a"
    exchange.answer()
    assert client.read_reply().status == 200


def test_trailers_of_a_request_pass_or_are_dropped_but_never_merged(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", b"Transfer-Encoding: chunked", b"Trailer: X-Sum"))
    client.send(chunked(b"hello", trailers=b"X-Sum: 5\r\n"))
    exchange = worker.receive()
    assert exchange.body.trailers in ((), ((b"X-Sum", b"5"),))
    assert exchange.values(b"x-sum") == []
    exchange.answer()
    assert client.read_reply().status == 200


def test_trailers_of_a_reply_pass_or_are_dropped_but_never_merged(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x", b"TE: trailers"))
    worker.receive().answer_chunked(b"hello", trailers=b"X-Sum: 5\r\nX-Sum: 6\r\n")
    reply = client.read_reply()
    assert reply.body == b"hello"
    assert reply.trailers in ((), ((b"X-Sum", b"5"), (b"X-Sum", b"6")))
    assert reply.values(b"x-sum") == []


def test_a_coding_named_in_capitals_is_chunked_as_well(worker: ScriptedWorker, client: Client) -> None:
    """Codings are case-insensitive (RFC 9112 §7); a worker and the router must not differ over it."""
    client.send(request(b"POST", b"/x", b"Transfer-Encoding: CHUNKED") + chunked(b"hello"))
    exchange = worker.receive()
    assert exchange.body.content == b"hello"
    exchange.answer()
    assert client.read_reply().status == 200


def test_a_get_with_a_body_arrives_whole(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x", body=b"content"))
    exchange = worker.receive()
    assert exchange.body.content == b"content"
    exchange.answer()
    assert client.read_reply().status == 200


def test_a_post_without_a_length_has_no_body(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x"))
    exchange = worker.receive()
    assert exchange.values(b"transfer-encoding") == []
    assert exchange.values(b"content-length") in ([], [b"0"])
    exchange.answer()
    assert client.read_reply().status == 200


def test_bodies_of_many_connections_do_not_mix(router: RouterProcess, worker: ScriptedWorker) -> None:
    clients = [Client(router.port) for _ in range(16)]
    exchanges: dict[bytes, Exchange] = {}
    bodies = [bytes([65 + number]) * 100_000 for number in range(16)]
    try:
        for number, client in enumerate(clients):
            client.send(request(b"POST", b"/%d" % number, body=bodies[number]))
        for _ in clients:
            exchange = worker.receive()
            exchanges[exchange.target] = exchange
        for number in reversed(range(16)):
            exchange = exchanges[b"/%d" % number]
            exchange.answer(body=exchange.body.content + b"!")
        for number, client in enumerate(clients):
            assert client.read_reply().body == bodies[number] + b"!"
    finally:
        for client in clients:
            client.close()
