"""A connection to a worker is reused only while it is certain that the worker has not closed it."""

from collections.abc import Iterator

import pytest

from support.client import Client, request
from support.exchange import Exchange
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def worker() -> Iterator[ScriptedWorker]:
    with ScriptedWorker() as worker:
        yield worker


@pytest.fixture(scope="module")
def router(worker: ScriptedWorker) -> Iterator[RouterProcess]:
    with RouterProcess([worker.url], "--idle-reuse", "0.5") as router:
        router.wait_until_healthy(1)
        yield router


@pytest.fixture
def client(router: RouterProcess) -> Iterator[Client]:
    with Client(router.port) as client:
        yield client


def exchanged(client: Client, worker: ScriptedWorker, status: int = 200, *fields: bytes) -> Exchange:
    """Let one request and its reply pass."""
    client.send(request(b"POST", b"/x", body=b"content"))
    exchange = worker.receive()
    exchange.answer(status, *fields)
    assert client.read_reply("POST").status == status
    return exchange


@pytest.mark.parametrize("status", [200, 302, 400, 404, 422])
def test_it_is_reused_after_a_handled_reply(status: int, client: Client, worker: ScriptedWorker) -> None:
    first = exchanged(client, worker, status)
    assert exchanged(client, worker).connection == first.connection


@pytest.mark.parametrize("status", [500, 501, 502, 503, 599])
def test_it_is_not_reused_after_a_5xx(status: int, client: Client, worker: ScriptedWorker) -> None:
    """Workers close it then, without saying so."""
    first = exchanged(client, worker, status)
    assert exchanged(client, worker).connection != first.connection
    first.expect_end()


def test_it_is_not_reused_when_the_worker_says_close(client: Client, worker: ScriptedWorker) -> None:
    first = exchanged(client, worker, 200, b"Connection: close")
    assert exchanged(client, worker).connection != first.connection


def test_it_is_not_reused_after_it_was_idle_for_too_long(client: Client, worker: ScriptedWorker) -> None:
    """Nothing leaks either: the router closes what it will not use again."""
    first = exchanged(client, worker)
    first.expect_end()
    assert exchanged(client, worker).connection != first.connection


def test_it_is_not_reused_when_the_reply_came_before_the_request_was_whole(
    router: RouterProcess, worker: ScriptedWorker
) -> None:
    with Client(router.port) as client:
        client.send(request(b"POST", b"/x", b"Content-Length: 100") + b"part")
        first = worker.receive()
        first.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        assert client.read_reply("POST").status == 413
    first.stream.discard(4)
    first.expect_end()
    with Client(router.port) as client:
        assert exchanged(client, worker).connection != first.connection


def test_a_connection_that_the_worker_closed_while_idle_is_not_used(client: Client, worker: ScriptedWorker) -> None:
    first = exchanged(client, worker)
    first.stream.close()
    for _ in range(3):
        assert exchanged(client, worker).connection != first.connection


def test_concurrent_requests_have_connections_of_their_own(router: RouterProcess, worker: ScriptedWorker) -> None:
    with Client(router.port) as one, Client(router.port) as two:
        for client in (one, two):
            client.send(request(b"GET", b"/x"))
        exchanges = [worker.receive(), worker.receive()]
        assert exchanges[0].connection != exchanges[1].connection
        for exchange in exchanges:
            exchange.answer()
        assert [one.read_reply().status, two.read_reply().status] == [200, 200]
