"""Whatever bytes come from either side, what leaves the router is HTTP, and the router lives on."""

import random
from collections.abc import Iterator

import pytest

from support.client import Client, ask, request
from support.deadlines import PATIENCE_S
from support.exchange import Exchange, sized_reply
from support.router import RouterProcess
from support.wire import Ended, chunked
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

REQUESTS = [
    request(b"GET", b"/x?y=1", b"Connection: close", b"X-A: 1"),
    request(b"POST", b"/x", b"Connection: close", body=b"content of some length"),
    request(b"POST", b"/x", b"Connection: close", b"Transfer-Encoding: chunked") + chunked(b"hello", b"world"),
    request(
        b"POST", b"/rollout/generate", b"Connection: close", b"Content-Type: application/json", body=b'{"model":"x"}'
    ),
    request(b"GET", b"/workers", b"Connection: close"),
    request(b"GET", b"/ws", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: eA=="),
    request(b"GET", b"/one") + request(b"POST", b"/two", b"Connection: close", body=b"2"),
]
REPLIES = [
    sized_reply(200, b"Content-Type: a/b", b"X-A: 1", body=b"content of some length"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n"
    + chunked(b"hello", b"world", trailers=b"X-B: 2\r\n"),
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + sized_reply(200, body=b"ok"),
    b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
    sized_reply(500, b"Content-Type: application/json", body=b'{"detail":"Oops"}'),
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
]
INTERESTING = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"\x80",
    b"\xff",
    b"0",
    b"-1",
    b"\r\n\r\n",
    b"\x7f",
    b"%",
    b";",
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change one to three places: drop, double, replace or insert."""
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data))
        end = at + rng.randrange(1, 9)
        piece = rng.choice([b"", data[at:end] * 2, rng.randbytes(1), rng.choice(INTERESTING), data[at:end].swapcase()])
        data = data[:at] + piece + data[rng.choice([at, at + 1, end]) :]
    return data


def answer(exchange: Exchange) -> None:
    exchange.answer(body=b"ok")


def final_statuses(client: Client, sent: bytes) -> Iterator[int]:
    """Read replies until the connection ends; one that waits for more of a request is closed from here."""
    method = sent.lstrip(b"\r\n").split(b" ", 1)[0].decode("latin-1")
    client.sock.settimeout(0.1)
    try:
        for _ in range(3):
            yield client.read_reply(method).status
    except TimeoutError:
        client.half_close()
        client.sock.settimeout(PATIENCE_S)
        client.read_to_end()
    except (Ended, ConnectionResetError):
        pass


@pytest.mark.parametrize("seed", range(8))
def test_any_request_gets_http_or_nothing(seed: int, router: RouterProcess, worker: ScriptedWorker) -> None:
    rng = random.Random(seed)
    worker.handler = answer
    for _ in range(50):
        sent = mutated(rng.choice(REQUESTS), rng)
        with Client(router.port) as client:
            client.send(sent)
            statuses = list(final_statuses(client, sent))
        assert not {500, 502} & set(statuses), sent
    expect_good_health(router, worker)


@pytest.mark.parametrize("seed", range(8))
def test_any_reply_becomes_http_or_an_abort(seed: int, router: RouterProcess, worker: ScriptedWorker) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        sent = mutated(rng.choice(REPLIES), rng)
        worker.handler = lambda exchange, sent=sent: exchange.close(sent)
        with Client(router.port) as client:
            client.send(request(b"POST", b"/x", body=b"content"))
            try:
                client.read_reply("POST")
            except (Ended, ConnectionResetError):
                continue
    expect_good_health(router, worker)


def expect_good_health(router: RouterProcess, worker: ScriptedWorker) -> None:
    """No lease is left, nothing was logged that should not have happened, and the next request works."""
    worker.handler = answer
    router.wait_until_idle()
    assert ask(router.port, request(b"POST", b"/next", body=b"x")).body == b"ok"
    assert "Traceback" not in router.stderr()
