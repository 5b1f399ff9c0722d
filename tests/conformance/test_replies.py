"""Replies of every form that HTTP/1.1 allows, and what becomes of those that it does not."""

import contextlib
import threading

import pytest

from support.client import Client, Connect, cut_short, request
from support.router import RouterProcess
from support.wire import Ended, chunk
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
NO_CHUNKS = b"0\r\n\r\n"

BAD_REPLIES = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "comma-joined lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
    "length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "length that is no number": b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
    "length above 2**64": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\nok",
    "length and coding": OK + LENGTH + CODING + b"\r\n" + NO_CHUNKS,
    "coding and length": OK + CODING + LENGTH + b"\r\n" + NO_CHUNKS,
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked and identity": OK + CODING + b"Transfer-Encoding: identity\r\n\r\n" + NO_CHUNKS,
    "no HTTP": b"hello there\r\n\r\n",
    "another protocol": b"SIP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "status that is no number": b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
    "status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
    "no colon": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Bad\r\n\r\nok",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Bad: a\x00b\r\n\r\nok",
    "bare CR in a value": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Bad: a\rX-Split: b\r\n\r\nok",
    "bare LF in a value": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Bad: a\nX-Split: b\r\n\r\nok",
    "NUL in the reason": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok",
    "folded line": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Bad: a\r\n b\r\n\r\nok",
    "head above the limit": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Big: " + b"x" * 70_000 + b"\r\n\r\nok",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 20_000,
    "endless line": b"HTTP/1.1 200 " + b"x" * 100_000,
    "101 that nobody asked for": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in BAD_REPLIES.items()])
def test_a_malformed_reply_becomes_502_and_its_connection_is_closed(
    sent: bytes, router: RouterProcess, worker: ScriptedWorker, client: Client
) -> None:
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.send(sent)
    reply = client.read_reply()
    assert reply.status == 502, reply
    assert reply.code == "bad_upstream_reply"
    assert worker.url in reply.json()["error"]
    exchange.expect_end()
    with Client(router.port) as other:
        other.send(request(b"GET", b"/next"))
        worker.receive().answer()
        assert other.read_reply().body == b"ok"


BAD_CHUNKED_REPLIES = {
    "size that is no number": chunk(b"good") + b"zz\r\nbad\r\n0\r\n\r\n",
    "negative size": chunk(b"good") + b"-3\r\nbad\r\n0\r\n\r\n",
    "size above 2**64": chunk(b"good") + b"1" * 30 + b"\r\nbad\r\n0\r\n\r\n",
    "data longer than its size": chunk(b"good") + b"3\r\nworse\r\n0\r\n\r\n",
    "size line ended by LF": chunk(b"good") + b"3\nbad\r\n0\r\n\r\n",
    "malformed trailer": chunk(b"good") + b"0\r\nno colon\r\n\r\n",
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in BAD_CHUNKED_REPLIES.items()])
def test_a_reply_whose_chunks_are_malformed_never_ends_well(
    body: bytes, worker: ScriptedWorker, client: Client
) -> None:
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body)
    assert cut_short(client) in {"short", "reset"}
    exchange.expect_end()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst", id="sized"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"first"), id="chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nfirst", id="chunked, in a chunk"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"first") + b"0\r\n",
            id="chunked, at its end",
        ),
    ],
)
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"], ids=bytes.decode)
def test_a_reply_that_ends_early_never_ends_well(
    version: bytes, sent: bytes, how: str, worker: ScriptedWorker, client: Client
) -> None:
    client.send(request(b"GET", b"/x", version=version))
    exchange = worker.receive()
    exchange.send(sent)
    # The router has passed on what it got before the connection breaks.
    client.read_head()
    if how == "close":
        exchange.close()
    else:
        exchange.reset()
    if version == b"HTTP/1.0" and b"chunked" in sent:
        # Nothing but a reset can tell a body that ends by closing from one that broke off.
        client.expect_abort()
    else:
        try:
            rest = client.read_to_end()
        except ConnectionResetError:
            return
        assert not rest.endswith(b"0\r\n\r\n"), rest
        assert len(rest) < 100


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_reply_that_ends_before_the_first_byte_of_its_body_becomes_502(
    how: str, worker: ScriptedWorker, client: Client
) -> None:
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
    if how == "close":
        exchange.close()
    else:
        exchange.reset()
    assert client.read_reply().status == 502


def test_a_reset_in_a_reply_that_ends_by_closing_never_ends_well(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 200 OK\r\n\r\nfirst")
    client.sock.recv(1)
    exchange.reset()
    try:
        rest = client.read_to_end()
    except ConnectionResetError:
        return
    assert b"chunked" in rest
    assert not rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Nothing: 1\r\n\r\n",
    ],
    ids=["sized", "chunked", "neither"],
)
def test_a_reply_to_head_has_no_body(head: bytes, worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"HEAD", b"/x"))
    worker.receive().answer_raw(head)
    reply = client.read_reply("HEAD")
    assert reply.status == 200
    if b"12345" in head:
        assert reply.values(b"content-length") == [b"12345"]
    client.send(request(b"GET", b"/next"))
    worker.receive().answer()
    assert client.read_reply().body == b"ok"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("fields", [b"", b"ETag: x\r\n", b"Content-Length: 7\r\n"], ids=["bare", "etag", "length"])
def test_204_and_304_have_no_body(status: int, fields: bytes, worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.answer_raw(b"HTTP/1.1 %d None\r\n%s\r\n" % (status, fields))
    assert client.read_reply().status == status
    client.send(request(b"GET", b"/next"))
    worker.receive().answer()
    assert client.read_reply().body == b"ok"


def test_early_hints_pass(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n")
    hints = client.read_interim()
    assert hints.status == 103
    assert [value for name, value in hints.fields if name == b"Link"] == [b"</a>; rel=preload", b"</b>"]
    exchange.answer()
    assert client.read_reply().body == b"ok"


def test_several_interim_replies_pass_in_one_segment_with_the_final_one(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x"))
    hint = b"HTTP/1.1 103 Early Hints\r\nX-Number: %d\r\n\r\n"
    worker.receive().answer_raw(hint % 1 + hint % 2 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    reply = client.read_reply()
    assert [(interim.status, interim.fields) for interim in reply.interim] == [
        (103, ((b"X-Number", b"1"),)),
        (103, ((b"X-Number", b"2"),)),
    ]
    assert reply.body == b"ok"


def test_a_stray_100_does_not_pass(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", body=b"content"))
    worker.receive().answer_raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    reply = client.read_reply()
    assert reply.interim == ()
    assert reply.body == b"ok"


def test_http_1_0_never_sees_an_interim_reply(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x", version=b"HTTP/1.0"))
    exchange = worker.receive()
    exchange.answer_raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    reply = client.read_reply()
    assert reply.interim == ()
    assert reply.body == b"ok"


def test_http_1_0_gets_a_chunked_reply_without_the_chunks(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x", version=b"HTTP/1.0"))
    worker.receive().answer_chunked(b"hello ", b"world")
    reply = client.read_reply()
    assert reply.framing == "close"
    assert reply.body == b"hello world"


def test_http_1_0_is_closed_after_its_reply(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x", version=b"HTTP/1.0"))
    worker.receive().answer()
    assert client.read_reply().body == b"ok"
    client.expect_end()


def test_http_1_0_without_a_host_works(worker: ScriptedWorker, client: Client) -> None:
    """The field came with HTTP/1.1 (RFC 9112 §3.2)."""
    client.send(request(b"GET", b"/x", host=None, version=b"HTTP/1.0"))
    exchange = worker.receive()
    assert exchange.values(b"host") == [worker.authority]
    exchange.answer()
    assert client.read_reply().body == b"ok"


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["1.0, no length", "1.0, sized", "1.1, no length"],
)
def test_a_worker_that_closes_after_its_reply_works(head: bytes, worker: ScriptedWorker, connect: Connect) -> None:
    for _ in range(2):
        client = connect()
        client.send(request(b"GET", b"/x"))
        worker.receive().close(head + b"ok")
        assert client.read_reply().body == b"ok"


def test_bytes_after_a_reply_reach_nobody_and_end_the_connection(worker: ScriptedWorker, connect: Connect) -> None:
    client = connect()
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + forged)
    assert client.read_reply().body == b"ok"
    exchange.expect_end()
    client.send(request(b"GET", b"/next"))
    worker.receive().answer(body=b"true")
    assert client.read_reply().body == b"true"


def test_bytes_on_an_idle_connection_reach_nobody_and_end_it(worker: ScriptedWorker, connect: Connect) -> None:
    client = connect()
    client.send(request(b"GET", b"/x"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_reply().body == b"ok"
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    exchange.expect_end()
    client.send(request(b"GET", b"/next"))
    worker.receive().answer(body=b"true")
    assert client.read_reply().body == b"true"


def test_a_worker_may_close_without_an_answer_to_a_request_only_as_a_failure(
    worker: ScriptedWorker, client: Client
) -> None:
    worker.handler = lambda exchange: exchange.close()
    reply = client.ask(request(b"POST", b"/x", body=b"content"))
    assert reply.status == 502
    assert reply.code == "upstream_died"


def test_a_head_cut_short_is_a_failure(worker: ScriptedWorker, client: Client) -> None:
    worker.handler = lambda exchange: exchange.close(b"HTTP/1.1 200 OK\r\nContent-Le")
    client.send(request(b"POST", b"/x", body=b"content"))
    assert client.read_reply().status == 502


def test_a_reply_without_the_requests_end_closes_the_clients_connection(worker: ScriptedWorker, client: Client) -> None:
    """The rest of the body must not be taken for a request."""
    client.send(request(b"POST", b"/x", b"Content-Length: 100") + b"GET /smuggled HTTP/1.1\r\n")
    exchange = worker.receive()
    exchange.close(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    reply = client.read_reply()
    assert (reply.status, reply.body) == (413, b"no")
    try:
        client.send(b"Host: router.test\r\n\r\n")
        rest = client.read_to_end()
    except (ConnectionResetError, BrokenPipeError, Ended):
        rest = b""
    assert rest == b""


def test_an_early_refusal_is_read_while_much_of_the_body_is_still_under_way(
    worker: ScriptedWorker, client: Client
) -> None:
    """The worker says no and reads no more; the client must not have to send the rest first."""
    client.send(request(b"POST", b"/x", b"Content-Length: 50000000"))
    exchange = worker.receive()
    pushed = push(client, 2_000_000)
    exchange.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    assert client.read_reply("POST").body == b"no"
    pushed.join()
    exchange.close()


def push(client: Client, size: int) -> threading.Thread:
    """Send bytes from a thread, however the connection ends."""

    def send() -> None:
        with contextlib.suppress(OSError):
            client.sock.sendall(bytes(size))

    thread = threading.Thread(target=send)
    thread.start()
    return thread
