"""Every malformed request gets its own status and code, closes its connection and never reaches a worker."""

import contextlib

import pytest

from conformance.bad_requests import BAD_CHUNKS, BAD_HEADS, Bad
from support.client import Client, Connect, ask, request
from support.exchange import Exchange
from support.router import RouterProcess
from support.wire import Ended
from support.worker import ScriptedWorker, echo_target

pytestmark = pytest.mark.e2e


def expect_that_the_next_request_works(router: RouterProcess, worker: ScriptedWorker) -> None:
    """The next request on a new connection is the next one that the worker sees: the one before never came."""
    with Client(router.port) as client:
        client.send(request(b"GET", b"/next"))
        exchange = worker.receive()
        assert exchange.target == b"/next"
        exchange.answer()
        assert client.read_reply().body == b"ok"


@pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.name) for bad in BAD_HEADS])
def test_a_malformed_head_is_refused_and_closes_the_connection(
    bad: Bad, router: RouterProcess, worker: ScriptedWorker, client: Client
) -> None:
    client.send(bad.sent)
    reply = client.read_reply("HEAD" if bad.sent.startswith(b"HEAD") else "GET")
    assert reply.status == bad.status, reply
    assert reply.code in bad.codes
    assert reply.values(b"connection") == [b"close"]
    client.expect_end()
    expect_that_the_next_request_works(router, worker)


def test_a_head_cut_by_the_client_reaches_nobody(router: RouterProcess, worker: ScriptedWorker, client: Client) -> None:
    client.send(b"GET /cut HTTP/1.1\r\nHost: router.test\r\n")
    client.half_close()
    # A refusal is allowed, an answer is not.
    with contextlib.suppress(Ended):
        assert client.read_reply().status == 400
    client.expect_end()
    expect_that_the_next_request_works(router, worker)


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in BAD_CHUNKS.items()])
def test_a_malformed_chunk_is_refused_and_the_worker_never_sees_a_whole_body(
    body: bytes, router: RouterProcess, worker: ScriptedWorker, client: Client
) -> None:
    whole: list[bytes] = []

    def answer(exchange: Exchange) -> None:
        _ = exchange.body
        whole.append(exchange.target)
        exchange.answer()

    # The head of the bad request may well have reached the worker before its body went wrong.
    worker.handler = answer
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(request(b"POST", b"/bad", b"Transfer-Encoding: chunked"), body)
    reply = client.read_reply()
    assert reply.status == 400, reply
    assert reply.code in {"bad_framing", "bad_header", "bad_request"}
    client.expect_end()
    assert ask(router.port, request(b"GET", b"/next")).body == b"ok"
    assert whole == [b"/next"]


def test_a_refusal_is_read_even_when_much_of_the_body_was_still_under_way(
    worker: ScriptedWorker, connect: Connect
) -> None:
    """Closing with unread bytes resets the connection, and a reset may overtake the reply (RFC 9112 §9.6)."""
    body = b"x" * 500_000
    for _ in range(5):
        client = connect()
        client.send(request(b"POST", b"/bad", b"Content-Length: 500000", b"Content-Length: 5") + body)
        assert client.read_reply().status == 400


def test_what_follows_a_refused_request_on_its_connection_is_never_run(
    router: RouterProcess, worker: ScriptedWorker, client: Client
) -> None:
    client.send(request(b"GET", b"/bad path") + request(b"GET", b"/smuggled"))
    assert client.read_reply().status == 400
    client.expect_end()
    expect_that_the_next_request_works(router, worker)


def test_requests_before_a_malformed_one_are_answered_first(worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    client.send(request(b"GET", b"/good") + request(b"GET", b"/bad path"))
    assert client.read_reply().body == b"GET /good "
    refusal = client.read_reply()
    assert refusal.status == 400
    client.expect_end()


def test_a_head_at_the_limits_passes(worker: ScriptedWorker, client: Client) -> None:
    target = b"/" + b"t" * (16 * 1024 - 1)
    client.send(request(b"GET", target, b"X-Big: " + b"x" * (44 * 1024)))
    exchange = worker.receive()
    assert exchange.target == target
    assert exchange.values(b"x-big") == [b"x" * (44 * 1024)]
    exchange.answer()
    assert client.read_reply().status == 200


def test_empty_lines_before_a_request_are_skipped(worker: ScriptedWorker, client: Client) -> None:
    """Some clients send one after a body (RFC 9112 §2.2)."""
    worker.handler = echo_target
    assert client.ask(b"\r\n" + request(b"POST", b"/one", body=b"1")).status == 200
    assert client.ask(b"\r\n" + request(b"GET", b"/two")).body == b"GET /two "


def test_a_refusal_of_head_has_no_body(router: RouterProcess, worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"HEAD", b"/x", b"Expect: a-miracle"))
    assert client.read_reply("HEAD").status == 417
    client.expect_end()


def test_an_error_names_its_request_in_one_sentence(router: RouterProcess, worker: ScriptedWorker) -> None:
    reply = ask(router.port, request(b"GET", b"/x", b"Content-Length: 5, 6"))
    error = reply.json()
    assert set(error) >= {"error", "code"}
    assert "\n" not in error["error"]
    assert "Traceback" not in error["error"]
