"""What a client gets to see of a reply's header."""

import pytest

from support.client import Client, Reply, request
from support.worker import ScriptedWorker, sized_reply

pytestmark = pytest.mark.e2e

ADDED = {b"via", b"date", b"server", b"x-request-id", b"connection", b"transfer-encoding", b"content-length"}
"""Fields that the router may make itself."""


def relayed(worker: ScriptedWorker, client: Client, *fields: bytes, method: bytes = b"GET", status: int = 200) -> Reply:
    """Let the worker answer with these field lines and give what the client got."""
    client.send(request(method, b"/x"))
    worker.receive().answer(status, *fields)
    return client.read_reply(method.decode())


def own(reply: Reply) -> list[bytes]:
    """Give the field lines that are not the router's."""
    return [
        name + b": " + value
        for name, value in reply.fields
        if name.lower() not in ADDED and not name.lower().startswith(b"x-sglang-router-")
    ]


def test_end_to_end_fields_arrive_as_sent_and_in_order(worker: ScriptedWorker, client: Client) -> None:
    fields = [
        b"Set-Cookie: a=1; Path=/",
        b"content-type: application/msgpack",
        b"Set-Cookie: b=2",
        b"X-Empty: ",
        b'ETag: W/"x"',
        b"set-cookie: c=3, d",
        b"X-8-Bit: caf\xe9 \xff",
        b"Content-Encoding: gzip",
        b"Vary: Origin",
        b'Warning: 199 - "x"',
        b"WWW-Authenticate: Bearer",
        b"Cache-Control: no-store",
        b"Refresh: 5; url=/x",
        b"x-inference-time_s: 1.5",
        b"Age: 1",
    ]
    assert own(relayed(worker, client, *fields)) == fields


@pytest.mark.parametrize(
    "status", [200, 201, 202, 206, 299, 301, 302, 307, 400, 404, 409, 422, 429, 499, 500, 503, 599]
)
def test_a_status_and_its_reason_pass(status: int, worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x"))
    worker.receive().answer_raw(b"HTTP/1.1 %d A Reason of its own\r\nContent-Length: 4\r\n\r\nbody" % status)
    reply = client.read_reply()
    assert (reply.status, reply.reason, reply.body) == (status, b"A Reason of its own", b"body")


def test_a_reply_without_a_reason_passes(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/x"))
    worker.receive().answer_raw(b"HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\nbody")
    assert client.read_reply().body == b"body"


@pytest.mark.parametrize(
    "line",
    [
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authenticate: Basic",
        b"TE: trailers",
        b"Trailer: X-Checksum",
        b"Upgrade: h2c",
        b"Connection: x-named",
    ],
    ids=bytes.decode,
)
def test_a_hop_by_hop_field_ends_here(line: bytes, worker: ScriptedWorker, client: Client) -> None:
    reply = relayed(worker, client, b"X-Before: 1", line, b"X-Named: 2" if b"x-named" in line else b"X-After: 1")
    kept = [b"X-Before: 1"] if b"x-named" in line else [b"X-Before: 1", b"X-After: 1"]
    assert own(reply) == kept
    assert reply.values(b"connection") in ([], [b"keep-alive"])


def test_a_workers_connection_close_is_between_it_and_the_router(worker: ScriptedWorker, client: Client) -> None:
    first = relayed(worker, client, b"Connection: close")
    assert first.values(b"connection") in ([], [b"keep-alive"])
    assert relayed(worker, client).body == b"ok"


@pytest.mark.parametrize("named", [b"content-length", b"transfer-encoding"], ids=bytes.decode)
def test_connection_cannot_take_the_framing_off(named: bytes, worker: ScriptedWorker, client: Client) -> None:
    reply = relayed(worker, client, b"Connection: " + named)
    assert reply.body == b"ok"
    assert relayed(worker, client).body == b"ok"


def test_date_and_server_of_the_worker_pass_once(worker: ScriptedWorker, client: Client) -> None:
    date = b"Sat, 21 Nov 2026 00:16:54 GMT"
    reply = relayed(worker, client, b"date: " + date, b"server: uvicorn")
    assert len(reply.values(b"date")) == 1
    assert len(reply.values(b"server")) == 1


def test_date_and_server_are_never_doubled_when_the_worker_sends_none(worker: ScriptedWorker, client: Client) -> None:
    reply = relayed(worker, client)
    assert len(reply.values(b"date")) <= 1
    assert len(reply.values(b"server")) <= 1


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (b"/v1/images/a%2Fb/content?x=1#y", b"/v1/images/a%2Fb/content?x=1#y"),
        (b"/", b"/"),
        (b"", b"/"),
        (b"?x=1", b"/?x=1"),
    ],
)
def test_a_location_that_names_the_worker_becomes_relative(
    path: bytes, seen: bytes, worker: ScriptedWorker, client: Client
) -> None:
    reply = relayed(worker, client, b"Location: http://" + worker.authority + path, status=307)
    assert reply.status == 307
    assert reply.values(b"location") == [seen]


@pytest.mark.parametrize(
    "location",
    [
        b"/relative?x",
        b"next",
        b"http://other.test/x",
        b"https://other.test:8443/x",
        b"http://127.0.0.1.other.test/x",
        b"//other.test/x",
    ],
    ids=bytes.decode,
)
def test_another_location_passes_untouched_and_is_not_followed(
    location: bytes, worker: ScriptedWorker, client: Client
) -> None:
    reply = relayed(worker, client, b"Location: " + location, status=302)
    assert reply.status == 302
    assert reply.values(b"location") == [location]


def test_a_location_that_only_begins_like_the_worker_passes_untouched(worker: ScriptedWorker, client: Client) -> None:
    location = b"http://" + worker.authority + b"0/x"
    assert relayed(worker, client, b"Location: " + location, status=302).values(b"location") == [location]


def test_a_generation_tells_where_it_ran(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/v1/images/generations", b"Content-Type: application/json", body=b'{"prompt":"x"}'))
    worker.receive().answer()
    reply = client.read_reply("POST")
    assert reply.values(b"x-sglang-router-worker") == [worker.url.encode()]
    assert reply.values(b"x-sglang-router-weight-version") == [b"0"]
    (waited,) = reply.values(b"x-sglang-router-queue-ms")
    assert float(waited) >= 0


def test_a_worker_cannot_speak_for_the_router(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"POST", b"/v1/images/generations", body=b"{}"))
    worker.receive().answer(200, b"X-SGLang-Router-Worker: http://forged:1")
    assert client.read_reply("POST").values(b"x-sglang-router-worker") == [worker.url.encode()]


def test_a_large_reply_header_of_many_fields_arrives_whole(worker: ScriptedWorker, client: Client) -> None:
    fields = [b"X-Field-%d: %s" % (n, b"v" * (n % 97 + 1)) for n in range(500)]
    assert own(relayed(worker, client, *fields)) == fields


def test_an_error_of_the_worker_passes_untouched(worker: ScriptedWorker, client: Client) -> None:
    body = b'{"detail":[{"type":"missing","loc":["body","prompt"],"msg":"Field required"}]}'
    client.send(request(b"POST", b"/v1/images/generations", body=b"{}"))
    worker.receive().answer_raw(sized_reply(422, b"content-type: application/json", body=body))
    reply = client.read_reply("POST")
    assert (reply.status, reply.body) == (422, body)
