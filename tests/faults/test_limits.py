"""Every wait has its limit, and every count: what is over it ends, is told so, and frees what it held."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from support.client import Client, Crowd, request
from support.deadlines import eventually, eventually_equal
from support.exchange import Exchange
from support.router import RouterProcess
from support.worker import ScriptedFleet, ScriptedWorker

pytestmark = pytest.mark.e2e

WORK = request(b"POST", b"/rollout/generate", body=b'{"prompt":"x"}')
UPGRADE = request(b"GET", b"/ws", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: eA==")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
def worker() -> Iterator[ScriptedWorker]:
    with ScriptedWorker() as worker:
        yield worker
        worker.hang_up()


def open_tunnel(worker: ScriptedWorker, client: Client) -> Exchange:
    client.send(UPGRADE)
    exchange = worker.receive()
    exchange.send(SWITCHING)
    assert client.read_reply().status == 101
    return exchange


def test_a_connection_without_a_request_is_closed_without_a_word(worker: ScriptedWorker) -> None:
    with RouterProcess([worker.url], "--client-idle-timeout", "0.5") as router, Client(router.port) as fresh:
        with Client(router.port) as used:
            assert used.ask(request(b"GET", b"/liveness")).status == 200
            used.expect_end()
        fresh.expect_end()


def test_a_client_that_takes_nothing_is_given_up(worker: ScriptedWorker) -> None:
    with RouterProcess([worker.url], "--stall-timeout", "1") as router:
        router.wait_until_healthy(1)
        with Crowd() as crowd:
            client = crowd.join(router.port, receive_buffer=8192)
            client.send(WORK)
            exchange = worker.receive()
            _ = exchange.body
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            pushing = push(exchange.stream.sock, 100_000_000)
            eventually_equal(router.in_flight, {worker.url: 0})
            pushing.join()


def test_a_worker_that_takes_nothing_is_given_up() -> None:
    with (
        ScriptedWorker(receive_buffer=8192) as worker,
        RouterProcess([worker.url], "--stall-timeout", "1") as router,
        Client(router.port) as client,
    ):
        router.wait_until_healthy(1)
        client.send(request(b"POST", b"/upload", b"Content-Length: 100000000"))
        exchange = worker.receive()
        pushing = push(client.sock, 100_000_000)
        eventually_equal(router.in_flight, {worker.url: 0})
        exchange.close()
        client.close()
        pushing.join()


def push(sock: socket.socket, size: int) -> threading.Thread:
    """Send bytes from a thread until they are out or the connection ends."""

    def send() -> None:
        with suppress(OSError):
            sock.sendall(bytes(size))

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_worker_that_is_late_is_a_504_and_stays_charged(worker: ScriptedWorker) -> None:
    """It works on: the next piece of work must not land behind this one."""
    with RouterProcess([worker.url], "--timeout", "0.5") as router, Client(router.port) as client:
        router.wait_until_healthy(1)
        client.send(WORK)
        exchange = worker.receive()
        _ = exchange.body
        reply = client.read_reply("POST")
        assert (reply.status, reply.code) == (504, "upstream_timeout")
        assert router.in_flight() == {worker.url: 1}
        assert exchange.is_open()
        exchange.answer()
        eventually_equal(router.in_flight, {worker.url: 0})


def test_a_reply_that_has_begun_in_time_may_take_as_long_as_it_needs(worker: ScriptedWorker) -> None:
    flags = ("--timeout", "0.5", "--orphan-timeout", "0.5")
    with RouterProcess([worker.url], *flags) as router, Client(router.port) as client, Client(router.port) as late:
        router.wait_until_healthy(1)
        client.send(WORK)
        first = worker.receive()
        _ = first.body
        first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12")
        client.read_head()
        late.send(WORK)
        second = worker.receive()
        _ = second.body
        assert late.read_reply("POST").status == 504
        first.send(b"34")
        first.finish()
        assert client.read_exactly(4) == b"1234"


def test_a_worker_that_does_not_take_a_connection_is_replaced() -> None:
    """A host that has vanished answers no SYN: no refusal comes, only silence."""
    flags = ("--connect-timeout", "0.5", "--health-check-interval", "60")
    with ScriptedFleet(2) as fleet, RouterProcess(fleet.urls, *flags) as router, ExitStack() as stack:
        router.wait_until_healthy(2)
        silent, sound = fleet.workers
        silent.refuse_connections()
        stack.enter_context(full_backlog(silent.port))
        with Client(router.port) as one, Client(router.port) as two:
            for client in (one, two):
                client.send(WORK)
            for _ in range(2):
                exchange = fleet.receive()
                assert exchange.worker is sound
                exchange.answer()
            assert [one.read_reply("POST").status, two.read_reply("POST").status] == [200, 200]


def full_backlog(port: int) -> ExitStack:
    """Listen without accepting, with a backlog that is full, so that the kernel drops every SYN."""
    stack = ExitStack()
    listener = stack.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(("127.0.0.1", port))
    return stack


def test_a_tunnel_without_a_byte_is_closed(worker: ScriptedWorker) -> None:
    with RouterProcess([worker.url], "--tunnel-idle", "0.5") as router, Client(router.port) as client:
        router.wait_until_healthy(1)
        exchange = open_tunnel(worker, client)
        client.read_to_end()
        exchange.stream.read_to_end()
        exchange.close()
        eventually_equal(router.in_flight, {worker.url: 0})


def test_tunnels_above_the_limit_are_refused(worker: ScriptedWorker) -> None:
    with RouterProcess([worker.url], "--max-tunnels", "1") as router:
        router.wait_until_healthy(1)
        with Client(router.port) as first, Client(router.port) as second:
            exchange = open_tunnel(worker, first)
            reply = second.ask(UPGRADE)
            assert reply.status in {429, 503}
            assert reply.code
            first.send(b"still there")
            assert exchange.stream.read_exactly(11) == b"still there"
            first.reset()
            exchange.expect_end()
            eventually_equal(router.in_flight, {worker.url: 0})
            with Client(router.port) as third:
                open_tunnel(worker, third).close()


def test_connections_above_the_limit_are_turned_away(worker: ScriptedWorker) -> None:
    with RouterProcess([worker.url], "--max-client-connections", "4") as router, Crowd() as crowd:
        for _ in range(4):
            assert crowd.join(router.port).ask(request(b"GET", b"/liveness")).status == 200
        with Client(router.port) as refused:
            refused.send(request(b"GET", b"/liveness"))
            with suppress(ConnectionResetError, EOFError):
                assert refused.read_reply().status == 503
        assert crowd[0].ask(request(b"GET", b"/liveness")).status == 200
        crowd.pop().close()
        eventually(lambda: serves(router.port), bool)


def serves(port: int) -> bool:
    """Tell whether a new connection is served."""
    with Client(port) as client:
        try:
            return client.ask(request(b"GET", b"/liveness")).status == 200
        except (OSError, EOFError):
            return False


def test_connections_to_one_worker_are_limited_when_asked(worker: ScriptedWorker) -> None:
    flags = ("--max-connections", "1", "--max-concurrency-per-worker", "0")
    with RouterProcess([worker.url], *flags) as router, Client(router.port) as one, Client(router.port) as two:
        router.wait_until_healthy(1)
        one.send(WORK)
        first = worker.receive()
        two.send(WORK)
        two.wait_until_read()
        eventually_equal(router.in_flight, {worker.url: 2})
        assert worker.drop_arrivals() == []
        first.answer()
        second = worker.receive()
        assert second.connection == first.connection
        second.answer()
        assert [one.read_reply("POST").status, two.read_reply("POST").status] == [200, 200]
