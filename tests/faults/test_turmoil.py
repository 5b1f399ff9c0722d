"""Much goes wrong at the same time: no reply is wrong, no lease is lost, and afterwards all is well."""

import hashlib
import random
import threading
from collections import Counter
from functools import partial

import pytest

from support.client import Client, Connect, request
from support.exchange import Exchange
from support.router import RouterProcess
from support.wire import Ended, chunk, chunked
from support.worker import ScriptedFleet, ScriptedWorker

pytestmark = pytest.mark.e2e

CLIENTS, REQUESTS = 10, 200


def expected(content: bytes) -> bytes:
    """Give the one right reply to a body: long enough to be cut in the middle."""
    return hashlib.sha256(content).hexdigest().encode() * 200


def misbehave(rng: random.Random, lock: threading.Lock, exchange: Exchange) -> None:
    """Answer, mostly well."""
    content = exchange.body.content
    right = expected(content)
    with lock:
        draw = rng.random()
    if draw < 0.6:
        exchange.answer(body=right)
    elif draw < 0.75:
        exchange.answer_chunked(right[:1000], right[1000:])
    elif draw < 0.80:
        exchange.answer(400, body=b"no")
    elif draw < 0.85:
        exchange.close()
    elif draw < 0.90:
        exchange.reset()
    elif draw < 0.94:
        exchange.close(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(right) + right[:5000])
    elif draw < 0.97:
        exchange.close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(right[:5000]))
    else:
        exchange.close(b"nonsense\r\n\r\n")


def be_a_client(port: int, rng: random.Random, seen: Counter[str], wrong: list[bytes]) -> None:
    """Send requests, leave early now and then, and check what comes back."""
    client = Client(port)
    for _ in range(REQUESTS):
        content = rng.randbytes(rng.choice([0, 10, 1000, 100_000]))
        if rng.random() < 0.5:
            sent = request(b"POST", b"/rollout/generate", body=content)
        else:
            pieces = [piece for piece in (content[:7], content[7:]) if piece]
            sent = request(b"POST", b"/rollout/generate", b"Transfer-Encoding: chunked") + chunked(*pieces)
        try:
            client.send(sent)
            if rng.random() < 0.15:
                raise Ended(b"left by its own will")
            reply = client.read_reply("POST")
        except (Ended, ConnectionError):
            seen["cut"] += 1
            client.reset()
            client = Client(port)
            continue
        seen[str(reply.status)] += 1
        if reply.status == 200 and reply.body != expected(content):
            wrong.append(content)
        if reply.values(b"connection") == [b"close"]:
            client.close()
            client = Client(port)
    client.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_no_reply_is_wrong_and_no_lease_is_lost(
    seed: int, router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    quiet_files = router.open_files()
    lock = threading.Lock()
    for worker in fleet.workers:
        worker.handler = partial(misbehave, random.Random(seed), lock)
    seen: Counter[str] = Counter()
    wrong: list[bytes] = []
    clients = [
        threading.Thread(target=be_a_client, args=(router.port, random.Random(f"{seed}/{number}"), seen, wrong))
        for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    kill_now_and_then(clients, fleet, router)
    for client in clients:
        client.join()
    assert wrong == []
    assert sum(seen.values()) == CLIENTS * REQUESTS, seen
    assert seen["200"] > CLIENTS * REQUESTS // 3, seen
    assert set(seen) <= {"200", "400", "502", "503", "cut"}, seen
    revive_all(fleet, router)
    router.wait_until_healthy(2)
    router.wait_until_idle()
    assert (router.queued(), router.open_files()) == (0, pytest.approx(quiet_files, abs=20))
    assert "Traceback" not in router.stderr()
    for worker in fleet.workers:
        worker.handler = lambda exchange: exchange.answer(body=expected(exchange.body.content))
    client = connect()
    for number in range(10):
        assert client.ask(request(b"POST", b"/rollout/generate", body=b"%d" % number)).body == expected(b"%d" % number)


def kill_now_and_then(clients: list[threading.Thread], fleet: ScriptedFleet, router: RouterProcess) -> None:
    """While the clients are at it, let one worker after the other die and come back."""
    turn = 0
    while any(client.is_alive() for client in clients):
        victim: ScriptedWorker = fleet.workers[turn % 2]
        victim.die()
        clients[turn % len(clients)].join(0.1)
        victim.listen()
        router.revive(victim.url)
        clients[turn % len(clients)].join(0.1)
        turn += 1


def revive_all(fleet: ScriptedFleet, router: RouterProcess) -> None:
    for worker in fleet.workers:
        worker.listen()
        router.revive(worker.url)
