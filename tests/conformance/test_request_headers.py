"""What a worker gets to see of a request's header."""

import re

import pytest

from support.client import Client, request
from support.exchange import Exchange
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

ADDED = {
    b"host",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"traceparent",
    b"x-request-id",
}
"""Fields that the router makes itself."""

HOP_BY_HOP = [
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Proxy-Authenticate: Basic",
    b"Proxy-Authorization: Basic c2VjcmV0",
    b"TE: trailers",
    b"Trailer: X-Checksum",
    b"Upgrade: h2c",
    b"KEEP-ALIVE: timeout=6",
    b"te: gzip;q=0.5",
]


def relayed(worker: ScriptedWorker, client: Client, *fields: bytes, method: bytes = b"GET") -> Exchange:
    """Send a request with these field lines and give what the worker got."""
    client.send(request(method, b"/x", *fields))
    exchange = worker.receive()
    exchange.answer()
    assert client.read_reply().status == 200
    return exchange


def own(exchange: Exchange) -> list[bytes]:
    """Give the field lines that are not the router's."""
    return [name + b": " + value for name, value in exchange.fields if name.lower() not in ADDED]


def test_end_to_end_fields_arrive_as_sent_and_in_order(worker: ScriptedWorker, client: Client) -> None:
    fields = [
        b"X-Repeated: 1",
        b"User-Agent: Test/1.0 (a; b)",
        b"x-repeated: 2",
        b"ACCEPT: */*",
        b"X-Empty: ",
        b"X-REPEATED: 3, 4",
        b"Cookie: a=1; b=2",
        b"Cookie: c=3",
        b"X-8-Bit: caf\xe9 \xff\x80",
        b'X-Quoted: "a, b; c=\\"d\\"" (e)',
        b"Authorization: Bearer of=good+news/==",
        b"x-repeated: 1",
        b"X_Underscore: kept",
        b"Forwarded: for=1.2.3.4",
        b"X-Real-IP: 1.2.3.4",
        b"Content-Encoding: gzip",
        b"!#$%&'*+-.^_`|~09azAZ: every token character",
        b"X-Tab: a\tb",
        b'If-None-Match: W/"x"',
    ]
    assert own(relayed(worker, client, *fields)) == fields


def test_whitespace_around_a_value_is_not_part_of_it(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"X-A:1", b"X-B: \t 2 \t ", b"X-C:")
    assert own(exchange) == [b"X-A: 1", b"X-B: 2", b"X-C: "]


def test_nothing_is_invented(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client)
    assert own(exchange) == []
    assert {name.lower() for name, _ in exchange.fields} == ADDED


@pytest.mark.parametrize("line", HOP_BY_HOP, ids=bytes.decode)
def test_a_hop_by_hop_field_ends_here(line: bytes, worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"X-Before: 1", line, b"X-After: 1")
    assert own(exchange) == [b"X-Before: 1", b"X-After: 1"]


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: X-Named, x-other",
        b"connection: x-named,,X-OTHER,",
        b"Connection: keep-alive , x-named\t,\tx-other",
    ],
    ids=bytes.decode,
)
def test_fields_that_connection_names_end_here(line: bytes, worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"X-Named: 1", b"X-Kept: 1", line, b"x-other: 2", b"X-NAMED: 3")
    assert own(exchange) == [b"X-Kept: 1"]


def test_fields_named_by_several_connection_fields_end_here(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"Connection: x-a", b"X-A: 1", b"Connection: x-b", b"X-B: 1", b"X-C: 1")
    assert own(exchange) == [b"X-C: 1"]


def test_connection_cannot_take_the_framing_off(worker: ScriptedWorker, client: Client) -> None:
    """A worker that lost the length would read the body as the next request."""
    client.send(request(b"POST", b"/x", b"Connection: content-length", body=b"GET /smuggled HTTP/1.1\r\n\r\n"))
    exchange = worker.receive()
    assert exchange.body.content == b"GET /smuggled HTTP/1.1\r\n\r\n"
    exchange.answer()
    assert client.read_reply().status == 200


@pytest.mark.parametrize(
    "name", [b"host", b"via", b"x-forwarded-for", b"x-request-id", b"traceparent"], ids=bytes.decode
)
def test_connection_cannot_take_the_routers_own_fields_off(name: bytes, worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"Connection: " + name)
    assert len(exchange.values(name)) == 1


def test_the_worker_gets_its_own_host(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client)
    assert exchange.values(b"host") == [worker.authority]


def test_forwarded_fields_tell_of_the_client(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client)
    assert exchange.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert exchange.values(b"x-forwarded-proto") == [b"http"]
    assert exchange.values(b"x-forwarded-host") == [b"router.test"]


def test_a_clients_own_forwarded_fields_are_not_believed(worker: ScriptedWorker, client: Client) -> None:
    lines = (
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Forwarded-Proto: https",
        b"x-forwarded-host: evil.test",
        b"X-FORWARDED-FOR: 7.7.7.7",
    )
    exchange = relayed(worker, client, *lines)
    assert exchange.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert exchange.values(b"x-forwarded-proto") == [b"http"]
    assert exchange.values(b"x-forwarded-host") == [b"router.test"]


def test_the_routers_fields_are_not_passed_on(worker: ScriptedWorker, client: Client) -> None:
    lines = (
        b"X-Sglang-Router-Anything: 1",
        b"x-sglang-router-peer: 6.6.6.6:1",
        b"X-SGLANG-ROUTER-REQUEST-ID: forged",
        b"X-Sglang-Kept: 1",
    )
    assert own(relayed(worker, client, *lines)) == [b"X-Sglang-Kept: 1"]


def test_a_trace_and_a_request_id_are_passed_on(worker: ScriptedWorker, client: Client) -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    exchange = relayed(worker, client, b"traceparent: " + trace, b"tracestate: a=1", b"X-Request-Id: mine-1")
    assert exchange.values(b"traceparent") == [trace]
    assert exchange.values(b"tracestate") == [b"a=1"]
    assert exchange.values(b"x-request-id") == [b"mine-1"]


def test_a_trace_and_a_request_id_are_made_when_missing(worker: ScriptedWorker, client: Client) -> None:
    first, second = relayed(worker, client), relayed(worker, client)
    traces = [exchange.values(b"traceparent") for exchange in (first, second)]
    for (trace,) in traces:
        assert re.fullmatch(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01", trace)
    assert traces[0] != traces[1]
    ids = [exchange.values(b"x-request-id") for exchange in (first, second)]
    assert [len(values) for values in ids] == [1, 1]
    assert ids[0] != ids[1]


def test_via_is_added_after_the_clients_own(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"Via: 1.0 fred, 1.1 p.example.net")
    vias = b", ".join(exchange.values(b"via")).split(b", ")
    assert vias[:2] == [b"1.0 fred", b"1.1 p.example.net"]
    assert len(vias) == 3
    assert vias[2].startswith(b"1.1 ")


def test_via_tells_the_version_that_was_received(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x", version=b"HTTP/1.0"))
    exchange = worker.receive()
    exchange.answer()
    assert client.read_reply().status == 200
    (via,) = exchange.values(b"via")
    assert via.startswith(b"1.0 ")
    assert exchange.version == b"HTTP/1.1"


@pytest.mark.parametrize(
    "form", [b"Via: %s", b"Via: 1.1 other, %s , 1.0 more", b"via: 1.1 a\r\nVIA: %s"], ids=bytes.decode
)
def test_a_request_that_has_been_here_before_is_a_loop(form: bytes, worker: ScriptedWorker, client: Client) -> None:
    (via,) = relayed(worker, client).values(b"via")
    reply = client.ask(request(b"GET", b"/x", form % via))
    assert reply.status == 508
    assert reply.code == "loop_detected"


def test_another_routers_via_is_no_loop(worker: ScriptedWorker, client: Client) -> None:
    (via,) = relayed(worker, client).values(b"via")
    relayed(worker, client, b"Via: " + via + b"-2")


def test_a_large_header_of_many_fields_arrives_whole(worker: ScriptedWorker, client: Client) -> None:
    fields = [b"X-Field-%d: %s" % (n, b"v" * (n % 97 + 1)) for n in range(500)]
    assert own(relayed(worker, client, *fields)) == fields


def test_two_requests_on_one_connection_share_no_field(worker: ScriptedWorker, client: Client) -> None:
    relayed(worker, client, b"X-First: 1", b"Connection: x-second")
    assert own(relayed(worker, client, b"X-Second: 2")) == [b"X-Second: 2"]


def test_an_http_1_0_client_has_hop_by_hop_fields_as_well(worker: ScriptedWorker, client: Client) -> None:
    lines = (b"Connection: keep-alive, x-named", b"X-Named: 1", b"Keep-Alive: timeout=5", b"X-Kept: 1")
    client.send(request(b"GET", b"/x", *lines, version=b"HTTP/1.0"))
    exchange = worker.receive()
    assert own(exchange) == [b"X-Kept: 1"]
    exchange.answer()
    assert client.read_reply().status == 200
