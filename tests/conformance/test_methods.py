"""Which methods go through, and what becomes of the others."""

import pytest

from support.client import Client, Connect, ask, request
from support.router import RouterProcess
from support.worker import ScriptedWorker, echo_target

pytestmark = pytest.mark.e2e

RELAYED = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "PROPFIND",
    "REPORT",
    "M-SEARCH",
    "PURGE",
    "MKCOL",
    "COPY",
    "LINK",
]


@pytest.mark.parametrize("method", RELAYED)
def test_a_method_that_llhttp_knows_goes_through(method: str, worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    reply = client.ask(request(method.encode(), b"/x", body=b"content"))
    assert reply.body == method.encode() + b" /x content"
    assert reply.status == 200


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
@pytest.mark.parametrize("target", [b"/x", b"/workers"], ids=bytes.decode)
def test_connect_and_trace_are_refused_with_allow(
    method: str, target: bytes, router: RouterProcess, worker: ScriptedWorker
) -> None:
    target = b"router.test:80" if method == "CONNECT" else target
    before = worker.requests
    reply = ask(router.port, request(method.encode(), target))
    assert reply.status == 405
    assert reply.code == "method_not_allowed"
    allowed = {method.strip() for method in b",".join(reply.values(b"allow")).split(b",")}
    assert allowed >= {b"GET", b"POST"}
    assert not allowed & {b"CONNECT", b"TRACE"}
    assert worker.requests == before


def test_connect_is_no_tunnel_to_anywhere(router: RouterProcess, worker: ScriptedWorker, client: Client) -> None:
    before = worker.requests
    client.send(request(b"CONNECT", worker.authority) + request(b"GET", b"/through"))
    assert client.read_reply().status == 405
    # What follows may be meant for the other end of the tunnel that was refused.
    client.expect_end()
    assert worker.requests == before


def test_options_asterisk_is_answered_by_the_router(router: RouterProcess, worker: ScriptedWorker) -> None:
    before = worker.requests
    reply = ask(router.port, request(b"OPTIONS", b"*"))
    assert reply.status in {200, 204}
    assert reply.body == b""
    assert b"GET" in b",".join(reply.values(b"allow"))
    assert worker.requests == before


def test_a_cors_preflight_reaches_the_worker(worker: ScriptedWorker, client: Client) -> None:
    fields = (b"Origin: http://x", b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: x-a")
    client.send(request(b"OPTIONS", b"/v1/images/generations", *fields))
    exchange = worker.receive()
    assert exchange.method == b"OPTIONS"
    assert exchange.values(b"origin") == [b"http://x"]
    assert exchange.values(b"access-control-request-method") == [b"POST"]
    exchange.answer(200, b"access-control-allow-origin: http://x", b"vary: Origin", body=b"OK")
    reply = client.read_reply("OPTIONS")
    assert reply.values(b"access-control-allow-origin") == [b"http://x"]
    assert reply.values(b"vary") == [b"Origin"]


def test_requests_on_one_connection_may_have_different_methods(worker: ScriptedWorker, connect: Connect) -> None:
    worker.handler = echo_target
    client = connect()
    for method in (b"POST", b"GET", b"DELETE", b"PUT", b"GET"):
        body = None if method == b"GET" else b"b"
        assert client.ask(request(method, b"/m", body=body)).body == method + b" /m " + (body or b"")
