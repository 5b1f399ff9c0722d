"""What becomes of work, connection and lease when the client leaves; the lease ends when the worker is really free."""

from collections.abc import Callable, Iterator

import pytest

from support.client import Client, Connect, request
from support.deadlines import eventually_equal
from support.router import RouterProcess, idle
from support.wire import chunk
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

WORK = request(b"POST", b"/rollout/generate", body=b'{"prompt":"x"}')
WAYS_TO_LEAVE: list[Callable[[Client], None]] = [Client.close, Client.reset]


@pytest.fixture(scope="module")
def worker() -> Iterator[ScriptedWorker]:
    with ScriptedWorker() as worker:
        yield worker


@pytest.fixture(scope="module")
def module_router(worker: ScriptedWorker) -> Iterator[RouterProcess]:
    with RouterProcess([worker.url], "--max-concurrency-per-worker", "1") as router:
        router.wait_until_healthy(1)
        yield router


@pytest.fixture
def router(module_router: RouterProcess, worker: ScriptedWorker) -> Iterator[RouterProcess]:
    """The module's router, without a lease before and after."""
    with idle(module_router, worker):
        yield module_router


def expect_charged(router: RouterProcess, worker: ScriptedWorker, leases: int) -> None:
    eventually_equal(router.in_flight, {worker.url: leases})


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_while_queued_the_request_is_dropped(
    leave: Callable[[Client], None], router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    first, second, third = connect(), connect(), connect()
    first.send(WORK)
    running = worker.receive()
    second.send(request(b"POST", b"/rollout/generate", b"X-Number: 2", body=b"x"))
    eventually_equal(router.queued, 1)
    third.send(request(b"POST", b"/rollout/generate", b"X-Number: 3", body=b"x"))
    eventually_equal(router.queued, 2)
    leave(second)
    eventually_equal(router.queued, 1)
    running.answer()
    assert first.read_reply("POST").status == 200
    following = worker.receive()
    assert following.values(b"x-number") == [b"3"]
    following.answer()
    assert third.read_reply("POST").status == 200


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_while_sending_the_workers_connection_is_closed_and_the_lease_ends(
    leave: Callable[[Client], None], router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    client = connect()
    client.send(request(b"POST", b"/upload", b"Content-Length: 100") + b"part")
    exchange = worker.receive()
    assert exchange.stream.read_exactly(4) == b"part"
    expect_charged(router, worker, 1)
    leave(client)
    exchange.expect_end()
    expect_charged(router, worker, 0)


def test_while_sending_chunks_the_worker_never_sees_their_end(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    client = connect()
    client.send(request(b"POST", b"/upload", b"Transfer-Encoding: chunked") + chunk(b"part"))
    exchange = worker.receive()
    assert exchange.stream.read_exactly(9) == chunk(b"part")
    client.close()
    exchange.expect_end()
    expect_charged(router, worker, 0)


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_while_waiting_the_worker_stays_charged_until_it_answers(
    leave: Callable[[Client], None], router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    client, queued = connect(), connect()
    client.send(WORK)
    exchange = worker.receive()
    _ = exchange.body
    leave(client)
    queued.send(WORK)
    eventually_equal(router.queued, 1)
    assert exchange.is_open()
    expect_charged(router, worker, 1)
    exchange.answer(body=b"x" * 200_000)
    following = worker.receive()
    following.answer()
    assert queued.read_reply("POST").status == 200


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_in_a_sized_reply_the_workers_connection_is_closed_and_the_lease_ends(
    leave: Callable[[Client], None], router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    """A worker that knows the length has done the work."""
    client = connect()
    client.send(WORK)
    exchange = worker.receive()
    _ = exchange.body
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nfirst")
    client.read_head()
    leave(client)
    exchange.expect_end()
    expect_charged(router, worker, 0)


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_in_a_chunked_reply_the_worker_stays_charged_to_its_end(
    leave: Callable[[Client], None], router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    client, queued = connect(), connect()
    client.send(WORK)
    exchange = worker.receive()
    _ = exchange.body
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"first"))
    client.read_head()
    leave(client)
    queued.send(WORK)
    eventually_equal(router.queued, 1)
    for _ in range(20):
        exchange.send(chunk(b"x" * 100_000))
    assert exchange.is_open()
    expect_charged(router, worker, 1)
    exchange.send(b"0\r\n\r\n")
    exchange.finish()
    following = worker.receive()
    following.answer()
    assert queued.read_reply("POST").status == 200


def test_with_requests_behind_it_in_the_pipeline_none_of_them_is_run(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    client = connect()
    client.send(WORK + WORK + WORK)
    exchange = worker.receive()
    _ = exchange.body
    client.reset()
    exchange.answer()
    router.wait_until_idle()
    follower = connect()
    follower.send(request(b"POST", b"/rollout/generate", b"X-Number: 4", body=b"x"))
    following = worker.receive()
    assert following.values(b"x-number") == [b"4"]
    following.answer()
    assert follower.read_reply("POST").status == 200


def test_an_orphan_whose_worker_dies_frees_its_lease(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    client = connect()
    client.send(WORK)
    exchange = worker.receive()
    _ = exchange.body
    client.close()
    exchange.reset()
    expect_charged(router, worker, 0)


def test_an_orphan_is_never_sent_to_another_worker(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    """Nobody waits for it."""
    before = worker.requests
    client = connect()
    client.send(WORK)
    exchange = worker.receive()
    _ = exchange.body
    client.close()
    exchange.close()
    expect_charged(router, worker, 0)
    assert worker.requests == before + 1


@pytest.mark.parametrize("body", [b"whole", b""])
def test_with_cancel_the_workers_connection_is_closed_at_once(worker: ScriptedWorker, body: bytes) -> None:
    with RouterProcess([worker.url], "--on-disconnect", "cancel") as router, Client(router.port) as client:
        router.wait_until_healthy(1)
        client.send(request(b"POST", b"/rollout/generate", body=body))
        exchange = worker.receive()
        _ = exchange.body
        client.close()
        exchange.expect_end()
        expect_charged(router, worker, 0)


def test_an_orphan_is_given_up_in_the_end(worker: ScriptedWorker) -> None:
    with RouterProcess([worker.url], "--orphan-timeout", "0.5") as router, Client(router.port) as client:
        router.wait_until_healthy(1)
        client.send(WORK)
        exchange = worker.receive()
        _ = exchange.body
        client.close()
        exchange.expect_end()
        expect_charged(router, worker, 0)
