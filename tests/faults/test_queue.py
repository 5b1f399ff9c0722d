"""Work waits in the router, not in the workers, and is refused at once when waiting is of no use."""

from collections.abc import Iterator

import pytest

from support.client import Client, Connect, request
from support.deadlines import eventually, eventually_equal
from support.exchange import Exchange
from support.router import RouterProcess, idle
from support.worker import ScriptedFleet, ScriptedWorker

pytestmark = pytest.mark.e2e


def work(number: int, target: bytes = b"/rollout/generate") -> bytes:
    return request(b"POST", target, b"X-Number: %d" % number, body=b'{"prompt":"x"}')


def number_of(exchange: Exchange) -> int:
    return int(exchange.values(b"x-number")[0])


@pytest.fixture(scope="module")
def worker() -> Iterator[ScriptedWorker]:
    with ScriptedWorker(tasks=["T2I", "T2V"]) as worker:
        yield worker


@pytest.fixture(scope="module")
def module_router(worker: ScriptedWorker) -> Iterator[RouterProcess]:
    with RouterProcess([worker.url], "--queue-max-requests", "4") as router:
        router.wait_until_healthy(1)
        yield router


@pytest.fixture
def router(module_router: RouterProcess, worker: ScriptedWorker) -> Iterator[RouterProcess]:
    with idle(module_router, worker):
        yield module_router


def fill(router: RouterProcess, worker: ScriptedWorker, connect: Connect) -> tuple[list[Client], list[Exchange]]:
    """Bring the worker to its cap of two."""
    clients = [connect(), connect()]
    for number, client in enumerate(clients):
        client.send(work(number))
    return clients, [worker.receive(), worker.receive()]


def test_a_worker_never_holds_more_than_its_cap_and_the_rest_comes_in_order(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    clients, running = fill(router, worker, connect)
    for number in (2, 3, 4):
        clients.append(connect())
        clients[-1].send(work(number))
        eventually_equal(router.queued, number - 1)
    assert router.in_flight() == {worker.url: 2}
    order = []
    while running:
        exchange = running.pop(0)
        order.append(number_of(exchange))
        exchange.answer()
        if len(order) + len(running) < 5:
            running.append(worker.receive())
    assert sorted(order[:2]) == [0, 1]
    assert order[2:] == [2, 3, 4]
    assert [client.read_reply("POST").status for client in clients] == [200] * 5


def test_a_full_queue_refuses_with_429(router: RouterProcess, worker: ScriptedWorker, connect: Connect) -> None:
    clients, running = fill(router, worker, connect)
    for number in range(4):
        clients.append(connect())
        clients[-1].send(work(number + 2))
    eventually_equal(router.queued, 4)
    refused = connect()
    reply = refused.ask(work(9))
    assert (reply.status, reply.code) == (429, "queue_full")
    assert int(reply.values(b"retry-after")[0]) >= 1
    for exchange in running:
        exchange.answer()
    for _ in range(4):
        exchange = worker.receive()
        assert number_of(exchange) != 9
        exchange.answer()
    assert [client.read_reply("POST").status for client in clients] == [200] * 6


def test_a_refused_client_may_try_again_on_its_connection(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    clients, running = fill(router, worker, connect)
    for number in range(4):
        clients.append(connect())
        clients[-1].send(work(number + 2))
    eventually_equal(router.queued, 4)
    again = connect()
    assert again.ask(work(9)).status == 429
    running[0].answer()
    eventually_equal(router.queued, 3)
    again.send(work(10))
    eventually_equal(router.queued, 4)
    running[1].answer()
    seen = set()
    for _ in range(5):
        exchange = worker.receive()
        seen.add(number_of(exchange))
        exchange.answer()
    assert 10 in seen
    assert again.read_reply("POST").status == 200
    assert [client.read_reply("POST").status for client in clients] == [200] * 6


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"], ids=bytes.decode)
def test_reads_of_the_catch_all_do_not_wait(
    method: bytes, router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    clients, running = fill(router, worker, connect)
    client = connect()
    client.send(request(method, b"/server_info"))
    exchange = worker.receive()
    assert exchange.method == method
    exchange.answer_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert client.read_reply(method.decode()).status == 200
    for exchange in running:
        exchange.answer()
    assert [client.read_reply("POST").status for client in clients] == [200, 200]


def test_the_creation_of_a_job_does_not_wait(router: RouterProcess, worker: ScriptedWorker, connect: Connect) -> None:
    clients, running = fill(router, worker, connect)
    client = connect()
    client.send(work(7, b"/v1/videos"))
    exchange = worker.receive()
    assert number_of(exchange) == 7
    exchange.answer(400, b"Content-Type: application/json", body=b'{"detail":"no"}')
    assert client.read_reply("POST").status == 400
    for exchange in running:
        exchange.answer()
    assert [client.read_reply("POST").status for client in clients] == [200, 200]


def test_an_expectation_waits_as_well(router: RouterProcess, worker: ScriptedWorker, connect: Connect) -> None:
    """The body of work that waits stays with the client."""
    clients, running = fill(router, worker, connect)
    client = connect()
    client.send(request(b"POST", b"/rollout/generate", b"X-Number: 5", b"Expect: 100-continue", b"Content-Length: 5"))
    eventually_equal(router.queued, 1)
    assert not client.has_bytes()
    for exchange in running:
        exchange.answer()
    exchange = worker.receive()
    exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_interim().status == 100
    client.send(b"hello")
    assert exchange.body.content == b"hello"
    exchange.answer()
    assert client.read_reply("POST").status == 200
    assert [client.read_reply("POST").status for client in clients] == [200, 200]


def test_a_body_that_waits_is_not_taken_into_memory(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    clients, running = fill(router, worker, connect)
    waiting = connect()
    waiting.sock.settimeout(0.5)
    body = b"x" * 64_000_000
    waiting.send(request(b"POST", b"/rollout/generate", b"X-Number: 6", b"Content-Length: %d" % len(body)))
    before = router.rss_bytes()
    sent = sent_before_it_stalls(waiting, body)
    assert sent < 16_000_000
    assert router.rss_bytes() - before < 8_000_000
    waiting.sock.settimeout(10)
    for exchange in running:
        exchange.answer()
    exchange = worker.receive()
    assert number_of(exchange) == 6
    waiting.reset()
    exchange.stream.discard(sent)
    exchange.expect_end()
    assert [client.read_reply("POST").status for client in clients] == [200, 200]


def sent_before_it_stalls(client: Client, body: bytes) -> int:
    """Send until the peer has taken nothing for the socket's timeout; give the count of bytes."""
    sent = 0
    try:
        while sent < len(body):
            sent += client.sock.send(body[sent : sent + 1_000_000])
    except TimeoutError:
        return sent
    raise AssertionError("all of it was taken")


def test_a_queued_request_may_run_out_of_time(worker: ScriptedWorker) -> None:
    flags = ("--queue-timeout", "0.3", "--max-concurrency-per-worker", "1")
    with RouterProcess([worker.url], *flags) as router, Client(router.port) as first, Client(router.port) as second:
        router.wait_until_healthy(1)
        first.send(work(0))
        exchange = worker.receive()
        reply = second.ask(work(1))
        assert (reply.status, reply.code) == (503, "queue_timeout")
        assert reply.json()["waited_s"] >= 0.3
        exchange.answer()
        assert first.read_reply("POST").status == 200


def test_without_a_worker_there_is_a_503_at_once() -> None:
    with RouterProcess() as router, Client(router.port) as client:
        reply = client.ask(work(0))
        assert (reply.status, reply.code) == (503, "no_routable_worker")
        assert reply.json()["by_status"] == {}
        assert int(reply.values(b"retry-after")[0]) >= 1
        video = client.ask(work(0, b"/v1/videos"))
        assert (video.status, video.json()["error"]) == (
            400,
            "No video-capable workers available in current worker pool.",
        )


def test_a_worker_that_has_not_answered_a_probe_yet_is_tried_when_there_is_no_other() -> None:
    with ScriptedWorker() as worker:
        del worker.automatic[(b"GET", b"/health")]
        with RouterProcess([worker.url]) as router, Client(router.port) as client:
            assert worker.receive().target == b"/health"
            client.send(work(1))
            exchange = worker.receive()
            assert number_of(exchange) == 1
            exchange.answer()
            assert client.read_reply("POST").status == 200


def test_queued_requests_get_503_when_the_last_worker_goes() -> None:
    flags = ("--health-check-interval", "0.2", "--max-concurrency-per-worker", "1", "--retries", "0")
    with ScriptedFleet(1) as fleet, RouterProcess(fleet.urls, *flags) as router:
        router.wait_until_healthy(1)
        with Client(router.port) as running, Client(router.port) as waiting:
            running.send(work(0))
            exchange = fleet.receive()
            waiting.send(work(1))
            eventually_equal(router.queued, 1)
            exchange.worker.die()
            assert running.read_reply("POST").status == 502
            reply = waiting.read_reply("POST")
            assert reply.status in {502, 503}
            eventually(router.statuses, lambda statuses: set(statuses.values()) == {"quarantined"})
            assert waiting.ask(work(2)).status == 503
