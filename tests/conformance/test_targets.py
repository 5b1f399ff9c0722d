"""Path and query reach the worker byte for byte; a control route is one however it is spelt."""

import pytest

from support.client import Client, ask, request
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

VERBATIM = [
    b"/",
    b"//",
    b"/a//b///c",
    b"/a/./b",
    b"/a/../b",
    b"/a/%2e%2e/b",
    b"/a%2Fb%2fc",
    b"/%61%62%63",
    b"/caf%C3%A9",
    b"/caf%c3%a9",
    b"/%25",
    b"/%2500",
    b"/100%",
    b"/%zz",
    b"/a;b=c;d",
    b"/a;/b",
    b"/a+b",
    b"/a,b:c@d!$&'()*=~_-.",
    b'/a"<>\\^`{|}b',
    b"/x?",
    b"/x??",
    b"/x?a=1&a=2&&=&b",
    b"/x?q=%00%0A%0d",
    b"/x?url=http://other/../workers",
    b"/x?/workers",
    b"/Workers",
    b"/workersx",
    b"/healthy",
    b"/x/workers",
    b"/v1/models_",
    b"/x" * 500,
]

WORKERS_SPELLINGS = [
    b"/workers",
    b"/workers/",
    b"//workers",
    b"///workers//",
    b"/./workers",
    b"/workers/.",
    b"/workers/./",
    b"/x/../workers",
    b"/x/y/../../workers",
    b"/../workers",
    b"/../../workers",
    b"/x/..//workers",
    b"/%77orkers",
    b"/%77%6f%72%6B%65%72%73",
    b"/worker%73",
    b"/%2e/workers",
    b"/%2E/workers",
    b"/x/%2e%2e/workers",
    b"/x/.%2E/workers",
    b"/x/%2e./workers",
    b"/%2Fworkers",
    b"/%2fworkers",
    b"/x%2f..%2fworkers",
    b"/x/..%2fworkers",
    b"/workers;",
    b"/workers;a=b",
    b"/workers;a=b/",
    b"/x;a/../workers",
    b"/x/..;/workers",
    b"/;/workers",
    b"/workers?",
    b"/workers?x=1",
]
"""GET /workers, as its author meant it and as others might write it."""

CONTROL_SPELLINGS = [
    *WORKERS_SPELLINGS,
    b"/workers/x/..",
    b"/workers%2f",
    b"/workers%2f..%2fworkers",
    b"/workers/http%3A%2F%2F127.0.0.1%3A1",
    b"http://router.test/workers",
    b"HTTP://router.test//workers",
    b"http://router.test:80/%77orkers",
    b"/health",
    b"/%68ealth",
    b"/health%2f",
    b"//health",
    b"/./health",
    b"/list_workers",
    b"/list%5Fworkers",
    b"/health_workers",
    b"/metrics",
    b"/%6detrics",
    b"/docs",
    b"/docs/",
    b"/openapi.json",
    b"/openapi%2ejson",
    b"/liveness",
    b"/readiness",
    b"/dashboard",
    b"/weights",
    b"/refits",
    b"/v1/models",
    b"/v1//models",
    b"/v1/%6dodels",
    b"/v1/x/../models",
    b"/v1/models/tiny",
]


@pytest.mark.parametrize("target", [pytest.param(target, id=target.decode("latin-1")[:40]) for target in VERBATIM])
def test_a_target_reaches_the_worker_byte_for_byte(target: bytes, worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", target))
    exchange = worker.receive()
    assert exchange.target == target
    exchange.answer()
    assert client.read_reply().body == b"ok"


@pytest.mark.parametrize("byte", sorted({*range(0x21, 0x7F)} - {ord("#")}), ids=lambda byte: f"{byte:#04x}")
def test_every_visible_byte_of_a_query_is_kept(byte: int, worker: ScriptedWorker, client: Client) -> None:
    target = b"/x?" + bytes([byte]) + b"=" + bytes([byte])
    client.send(request(b"GET", target))
    exchange = worker.receive()
    assert exchange.target == target
    exchange.answer()
    assert client.read_reply().status == 200


@pytest.mark.parametrize("target", CONTROL_SPELLINGS, ids=bytes.decode)
def test_no_spelling_of_a_control_route_reaches_a_worker(
    target: bytes, router: RouterProcess, worker: ScriptedWorker
) -> None:
    before = worker.requests
    reply = ask(router.port, request(b"GET", target))
    assert worker.requests == before
    assert reply.status in {200, 307, 404}, reply


@pytest.mark.parametrize("target", WORKERS_SPELLINGS, ids=bytes.decode)
def test_every_spelling_of_workers_answers_as_workers_does(
    target: bytes, router: RouterProcess, worker: ScriptedWorker
) -> None:
    reply = ask(router.port, request(b"GET", target))
    assert reply.status == 200, reply
    assert [entry["url"] for entry in reply.json()["workers"]] == [worker.url]


def test_an_absolute_target_is_relayed_as_its_path(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"http://other.test:8080/a/../b?c=%41", host=b"router.test"))
    exchange = worker.receive()
    assert exchange.target == b"/a/../b?c=%41"
    assert exchange.values(b"host") == [worker.authority]
    assert exchange.values(b"x-forwarded-host") == [b"other.test:8080"]
    exchange.answer()
    assert client.read_reply().status == 200


def test_an_absolute_target_without_a_path_asks_for_the_root(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"http://other.test"))
    exchange = worker.receive()
    assert exchange.target == b"/"
    exchange.answer()
    assert client.read_reply().status == 200


def test_an_absolute_target_with_a_query_but_no_path_keeps_the_query(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"http://other.test?a=1"))
    exchange = worker.receive()
    assert exchange.target == b"/?a=1"
    exchange.answer()
    assert client.read_reply().status == 200
