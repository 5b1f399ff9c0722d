"""A request that comes too slowly is timed out, wherever it stalls."""

import contextlib
from collections.abc import Iterator

import pytest

from support.client import Client, request
from support.router import RouterProcess
from support.worker import ScriptedWorker, echo_target

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def router(module_worker: ScriptedWorker) -> Iterator[RouterProcess]:
    flags = ("--client-head-timeout", "0.4", "--client-body-timeout", "0.4")
    with RouterProcess([module_worker.url], *flags) as router:
        router.wait_until_healthy(1)
        yield router


def test_a_head_that_comes_too_slowly_is_timed_out(worker: ScriptedWorker, client: Client) -> None:
    client.send(b"GET /slow HTTP/1.1\r\nHost: rou")
    reply = client.read_reply()
    assert reply.status == 408
    assert reply.code == "head_timeout"
    client.expect_end()


def test_a_head_that_trickles_in_is_timed_out_as_well(worker: ScriptedWorker, client: Client) -> None:
    """The limit is on the whole head: a byte now and then does not buy more time."""
    client.sock.settimeout(0.25)
    client.send(b"GET /slow HTTP/1.1\r\n")
    for _ in range(40):
        client.send(b"X: 1\r\n")
        with contextlib.suppress(TimeoutError):
            reply = client.read_reply()
            break
    else:
        raise AssertionError("a head of 10 s was not timed out")
    assert reply.status == 408


def test_a_second_head_on_a_connection_is_timed_out_as_well(worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    assert client.ask(request(b"GET", b"/one")).status == 200
    client.send(b"GET /two HTTP/1.1\r\n")
    assert client.read_reply().status == 408
    client.expect_end()


def test_an_upload_that_stalls_is_timed_out_and_its_worker_connection_closed(
    worker: ScriptedWorker, client: Client
) -> None:
    client.send(request(b"POST", b"/stalls", b"Content-Length: 10") + b"12345")
    exchange = worker.receive()
    assert exchange.stream.read_exactly(5) == b"12345"
    reply = client.read_reply()
    assert reply.status == 408
    assert reply.code == "body_timeout"
    client.expect_end()
    exchange.expect_end()
