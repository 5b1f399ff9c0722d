"""An upgraded connection is a pair of pipes: bytes, half-closes and ends pass as they come."""

import random
import threading

import pytest

from support.client import Client, Connect, request
from support.deadlines import eventually_equal
from support.exchange import Exchange
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

UPGRADE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Protocol: a, b",
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: a\r\n\r\n"
)
PATHS = [b"/v1/realtime_video/generate", b"/v1/actions/realtime", b"/openpi/policy", b"/any/other?x=1"]


def open_tunnel(worker: ScriptedWorker, client: Client, path: bytes = PATHS[0]) -> Exchange:
    """Bring a tunnel up and give the worker's end."""
    client.send(request(b"GET", path, *UPGRADE))
    exchange = worker.receive()
    exchange.send(SWITCHING)
    assert client.read_reply().status == 101
    return exchange


@pytest.mark.parametrize("path", PATHS, ids=bytes.decode)
def test_the_handshake_passes_both_ways(path: bytes, worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", path, *UPGRADE))
    exchange = worker.receive()
    assert exchange.target == path
    assert [value.lower() for value in exchange.values(b"connection")] == [b"upgrade"]
    assert exchange.values(b"upgrade") == [b"websocket"]
    assert exchange.values(b"sec-websocket-key") == [b"dGhlIHNhbXBsZSBub25jZQ=="]
    assert exchange.values(b"sec-websocket-version") == [b"13"]
    assert exchange.values(b"sec-websocket-protocol") == [b"a, b"]
    exchange.send(SWITCHING)
    reply = client.read_reply()
    assert reply.status == 101
    assert [value.lower() for value in reply.values(b"connection")] == [b"upgrade"]
    assert reply.values(b"upgrade") == [b"websocket"]
    assert reply.values(b"sec-websocket-accept") == [b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
    assert reply.values(b"sec-websocket-protocol") == [b"a"]
    exchange.close()
    client.expect_end()


def test_bytes_pass_both_ways_as_they_come(worker: ScriptedWorker, client: Client) -> None:
    exchange = open_tunnel(worker, client)
    for number in range(20):
        there, back = b"\x00\xff\r\n\r\nGET %d" % number, b"HTTP/1.1 %d\r\n\r\n" % number
        client.send(there)
        assert exchange.stream.read_exactly(len(there)) == there
        exchange.send(back)
        assert client.read_exactly(len(back)) == back
    exchange.close()
    client.expect_end()


def test_much_passes_both_ways_at_once(worker: ScriptedWorker, client: Client) -> None:
    exchange = open_tunnel(worker, client)
    there, back = random.Random(1).randbytes(2_000_000), random.Random(2).randbytes(2_000_000)
    senders = [
        threading.Thread(target=client.sock.sendall, args=(there,)),
        threading.Thread(target=exchange.stream.sock.sendall, args=(back,)),
    ]
    received: list[bytes] = []
    senders.append(threading.Thread(target=lambda: received.append(exchange.stream.read_exactly(len(there)))))
    for sender in senders:
        sender.start()
    assert client.read_exactly(len(back)) == back
    for sender in senders:
        sender.join()
    assert received == [there]
    exchange.close()


def test_bytes_that_come_with_the_handshake_are_not_lost(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", PATHS[0], *UPGRADE) + b"early from the client")
    exchange = worker.receive()
    exchange.send(SWITCHING + b"early from the worker")
    assert client.read_reply().status == 101
    assert client.read_exactly(21) == b"early from the worker"
    assert exchange.stream.read_exactly(21) == b"early from the client"
    exchange.close()


def test_a_clients_half_close_reaches_the_worker_which_may_go_on(worker: ScriptedWorker, client: Client) -> None:
    exchange = open_tunnel(worker, client)
    client.send(b"last words")
    client.half_close()
    assert exchange.stream.read_to_end() == b"last words"
    exchange.send(b"an answer")
    exchange.stream.half_close()
    assert client.read_to_end() == b"an answer"
    exchange.close()


def test_a_workers_half_close_reaches_the_client_which_may_go_on(worker: ScriptedWorker, client: Client) -> None:
    exchange = open_tunnel(worker, client)
    exchange.send(b"last words")
    exchange.stream.half_close()
    assert client.read_to_end() == b"last words"
    client.send(b"an answer")
    client.half_close()
    assert exchange.stream.read_to_end() == b"an answer"
    exchange.close()


def test_a_close_frame_passes_untouched(worker: ScriptedWorker, client: Client) -> None:
    exchange = open_tunnel(worker, client)
    close_frame = b"\x88\x02\x03\xe9"
    exchange.send(close_frame)
    exchange.stream.half_close()
    assert client.read_to_end() == close_frame
    exchange.close()


@pytest.mark.parametrize("who", ["client", "worker"])
def test_the_death_of_one_end_ends_the_other_and_the_lease(
    who: str, router: RouterProcess, worker: ScriptedWorker, client: Client
) -> None:
    exchange = open_tunnel(worker, client)
    eventually_equal(router.in_flight, {worker.url: 1})
    if who == "client":
        client.reset()
        exchange.stream.expect_end()
        exchange.close()
    else:
        exchange.reset()
        client.expect_end()
    router.wait_until_idle()


def test_a_worker_that_refuses_the_upgrade_answers_as_usual(
    router: RouterProcess, worker: ScriptedWorker, client: Client
) -> None:
    client.send(request(b"GET", b"/nope", *UPGRADE))
    worker.receive().close(
        b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\n"
    )
    assert client.read_reply().status == 403
    router.wait_until_idle()


def expect_no_upgrade(worker: ScriptedWorker, client: Client, sent: bytes) -> None:
    """The request is refused, or relayed as an ordinary one without its wish to upgrade."""

    def answer(exchange: Exchange) -> None:
        assert exchange.values(b"upgrade") == []
        assert exchange.values(b"connection") == []
        exchange.answer()

    worker.handler = answer
    client.send(sent)
    assert client.read_reply().status in {200, 400, 405, 426, 501}


def test_a_post_cannot_upgrade(worker: ScriptedWorker, client: Client) -> None:
    expect_no_upgrade(worker, client, request(b"POST", PATHS[0], *UPGRADE, body=b"x"))


def test_http_1_0_cannot_upgrade(worker: ScriptedWorker, client: Client) -> None:
    expect_no_upgrade(worker, client, request(b"GET", PATHS[0], *UPGRADE, version=b"HTTP/1.0"))


@pytest.mark.parametrize("line", [b"X-Other: 1", b"Connection: keep-alive"], ids=bytes.decode)
def test_upgrade_without_connection_upgrade_is_no_wish(line: bytes, worker: ScriptedWorker, client: Client) -> None:
    expect_no_upgrade(worker, client, request(b"GET", PATHS[0], line, *UPGRADE[1:]))


@pytest.mark.parametrize("protocol", [b"h2c", b"TLS/1.0", b"websocket2", b"h2c, websocket"], ids=bytes.decode)
def test_no_other_protocol_is_offered_to_the_worker(protocol: bytes, worker: ScriptedWorker, client: Client) -> None:
    """A tunnel that the worker takes for HTTP/2 would carry requests past the router."""
    fields = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol, b"HTTP2-Settings: AAM")
    expect_no_upgrade(worker, client, request(b"GET", b"/x", *fields))


def test_a_control_route_is_no_way_to_a_worker(worker: ScriptedWorker, client: Client) -> None:
    before = worker.requests
    reply = client.ask(request(b"GET", b"/workers", *UPGRADE))
    assert reply.status in {200, 400, 404, 405, 426, 501}
    assert worker.requests == before


def test_many_tunnels_stand_side_by_side(router: RouterProcess, worker: ScriptedWorker, connect: Connect) -> None:
    clients = [connect() for _ in range(20)]
    exchanges = [open_tunnel(worker, client) for client in clients]
    for number, (client, exchange) in enumerate(zip(clients, exchanges, strict=True)):
        client.send(b"%03d" % number)
        assert exchange.stream.read_exactly(3) == b"%03d" % number
    assert router.in_flight() == {worker.url: 20}
    for client in clients:
        client.close()
    for exchange in exchanges:
        exchange.stream.expect_end()
        exchange.close()
    router.wait_until_idle()
