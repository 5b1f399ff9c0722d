"""Expect: 100-continue is a matter between the client and the worker."""

import pytest

from support.client import Client, request
from support.wire import chunked
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

EXPECT = b"Expect: 100-continue"


def test_the_workers_100_lets_the_client_send_its_body(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", EXPECT, b"Content-Length: 5"))
    exchange = worker.receive()
    assert exchange.values(b"expect") == [b"100-continue"]
    assert not client.has_bytes()
    exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_interim().status == 100
    client.send(b"hello")
    assert exchange.body.content == b"hello"
    exchange.answer()
    reply = client.read_reply()
    assert (reply.status, reply.interim) == (200, ())


def test_the_workers_100_lets_the_client_send_chunks(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", EXPECT, b"Transfer-Encoding: chunked"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_interim().status == 100
    client.send(chunked(b"hello", b" world"))
    assert exchange.body.content == b"hello world"
    exchange.answer()
    assert client.read_reply().status == 200


@pytest.mark.parametrize("status", [401, 413, 417, 500])
def test_a_refusal_passes_without_a_100_and_ends_the_connection(
    status: int, worker: ScriptedWorker, client: Client
) -> None:
    """The body may or may not follow, so what comes next cannot be told from it (RFC 9110 §10.1.1)."""
    client.send(request(b"POST", b"/x", EXPECT, b"Content-Length: 5"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % status)
    reply = client.read_reply()
    assert (reply.status, reply.interim, reply.body) == (status, (), b"no")
    client.expect_end()
    exchange.expect_end()


def test_a_client_that_does_not_wait_for_the_100_is_served(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", EXPECT, body=b"hello"))
    exchange = worker.receive()
    assert exchange.body.content == b"hello"
    exchange.answer()
    assert client.read_reply().status == 200


def test_a_worker_that_sends_no_100_gets_the_body_when_the_client_tires(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", EXPECT, b"Content-Length: 5"))
    exchange = worker.receive()
    client.send(b"hello")
    assert exchange.body.content == b"hello"
    exchange.answer()
    assert client.read_reply().interim == ()


def test_a_100_and_a_final_reply_in_one_segment_both_pass(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", EXPECT, body=b"hello"))
    exchange = worker.receive()
    exchange.answer_raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    reply = client.read_reply()
    assert [interim.status for interim in reply.interim] in ([], [100])
    assert reply.body == b"ok"


def test_the_expectation_may_be_spelt_in_any_case(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", b"eXPECT: 100-Continue", b"Content-Length: 5"))
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_interim().status == 100
    client.send(b"hello")
    _ = exchange.body
    exchange.answer()
    assert client.read_reply().status == 200


def test_http_1_0_cannot_expect_anything(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/x", EXPECT, body=b"hello", version=b"HTTP/1.0"))
    exchange = worker.receive()
    assert exchange.values(b"expect") == []
    exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    exchange.answer()
    reply = client.read_reply()
    assert (reply.status, reply.interim) == (200, ())


def test_a_control_route_accepts_an_expectation(client: Client) -> None:
    client.send(request(b"POST", b"/workers", EXPECT, b"Content-Type: application/json", b"Content-Length: 17"))
    assert client.read_interim().status == 100
    client.send(b'{"url": "ftp://"}')
    reply = client.read_reply()
    assert reply.status == 400
