"""Memory does not grow with bodies, however slow the one who takes them."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from support.client import Client, request
from support.exchange import Exchange
from support.router import RouterProcess
from support.wire import Stream, chunk
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

STREAMS = 16
BODY = 32 * 2**20
ALLOWED = 24 * 2**20
"""What may come on top: kernel buffers are not the process's, and each side of a stream holds less than 1 MiB."""
COLLECTED = 4 * 16 * 2**20
"""The beginnings of two replies, of which thumbnails may be made, and what comes of one of them while it is read."""
PIECE = b"\x5a" * 2**18


@pytest.fixture(scope="module")
def worker() -> Iterator[ScriptedWorker]:
    # A fixed buffer: left alone, the kernel lets it grow until a whole body fits.
    with ScriptedWorker(receive_buffer=65_536) as worker:
        yield worker


@pytest.fixture(scope="module")
def router(worker: ScriptedWorker) -> Iterator[RouterProcess]:
    with RouterProcess([worker.url], "--max-concurrency-per-worker", "0") as router:
        router.wait_until_healthy(1)
        yield router


@pytest.fixture
def showing(worker: ScriptedWorker) -> Iterator[RouterProcess]:
    """A router that looks at the images in what passes."""
    with RouterProcess([worker.url], "--max-concurrency-per-worker", "0", "--thumbnails", "4") as router:
        router.wait_until_healthy(1)
        yield router


class Side:
    """Pours bodies into sockets from one thread each, and tells when none of them gets on any more."""

    def __init__(self) -> None:
        self._settled = threading.Semaphore(0)
        self._failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, job: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                job()
            except BaseException as failure:  # noqa: BLE001
                self._failures.append(failure)
                self._settled.release()

        self._threads.append(threading.Thread(target=guarded))
        self._threads[-1].start()

    def pour(self, sock: socket.socket, head: bytes, *, in_chunks: bool = False) -> None:
        """Send a head and a body of `BODY` bytes."""
        frame = chunk(PIECE) if in_chunks else PIECE
        settled = False
        for part in [head, *([frame] * (BODY // len(PIECE))), b"0\r\n\r\n" if in_chunks else b""]:
            unsent = memoryview(part)
            while unsent:
                if not select.select([], [sock], [], None if settled else 0.5)[1]:
                    settled = True
                    self._settled.release()
                    continue
                unsent = unsent[sock.send(unsent) :]
        if not settled:
            # The kernel's buffers took all of it.
            self._settled.release()

    def reply_to(self, clients: list[Client], worker: ScriptedWorker, *, in_chunks: bool) -> list[Exchange]:
        """Have each client ask for work, and the worker pour a reply for it."""
        framing = b"Transfer-Encoding: chunked" if in_chunks else b"Content-Length: %d" % BODY
        head = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"
        exchanges = []
        for client in clients:
            client.send(request(b"POST", b"/rollout/generate", body=b"{}"))
            exchanges.append(worker.receive())
        for exchange in exchanges:
            _ = exchange.body
            self.start(partial(self.pour, exchange.stream.sock, head, in_chunks=in_chunks))
        return exchanges

    def wait_until_settled(self, number: int) -> None:
        for _ in range(number):
            assert self._settled.acquire(timeout=30)
        assert self._failures == []

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        assert self._failures == []


@pytest.fixture
def clients(router: RouterProcess) -> Iterator[list[Client]]:
    clients = [Client(router.port, timeout_s=40, receive_buffer=65_536) for _ in range(STREAMS)]
    yield clients
    for client in clients:
        client.close()


@pytest.mark.parametrize("in_chunks", [False, True], ids=["sized", "chunked"])
def test_replies_to_slow_readers_stay_with_the_worker(
    in_chunks: bool, router: RouterProcess, worker: ScriptedWorker, clients: list[Client]
) -> None:
    before = router.rss_bytes()
    side = Side()
    exchanges = side.reply_to(clients, worker, in_chunks=in_chunks)
    side.wait_until_settled(STREAMS)
    assert router.rss_bytes() - before < ALLOWED
    for client in clients:
        client.read_head()
        side.start(partial(expect_body, client, in_chunks=in_chunks))
    side.join()
    for exchange in exchanges:
        exchange.finish()
    assert router.peak_rss_bytes() - before < ALLOWED


@pytest.mark.parametrize("in_chunks", [False, True], ids=["sized", "chunked"])
def test_thumbnails_are_made_of_the_beginning_of_a_few(
    in_chunks: bool, showing: RouterProcess, worker: ScriptedWorker
) -> None:
    clients = [Client(showing.port, timeout_s=40, receive_buffer=65_536) for _ in range(STREAMS)]
    before = showing.rss_bytes()
    side = Side()
    exchanges = side.reply_to(clients, worker, in_chunks=in_chunks)
    for client in clients:
        client.read_head()
        side.start(partial(expect_body, client, in_chunks=in_chunks))
    side.join()
    for exchange in exchanges:
        exchange.finish()
    for client in clients:
        client.close()
    assert showing.peak_rss_bytes() - before < ALLOWED + COLLECTED


@pytest.mark.parametrize("in_chunks", [False, True], ids=["sized", "chunked"])
def test_uploads_to_a_slow_worker_stay_with_the_client(
    in_chunks: bool, router: RouterProcess, worker: ScriptedWorker, clients: list[Client]
) -> None:
    framing = b"Transfer-Encoding: chunked" if in_chunks else b"Content-Length: %d" % BODY
    before = router.rss_bytes()
    side = Side()
    for client in clients:
        side.start(
            partial(side.pour, client.sock, request(b"POST", b"/rollout/generate", framing), in_chunks=in_chunks)
        )
    exchanges = [worker.receive() for _ in clients]
    side.wait_until_settled(STREAMS)
    assert router.rss_bytes() - before < ALLOWED
    for exchange in exchanges:
        side.start(partial(expect_body, exchange.stream, in_chunks=in_chunks))
    side.join()
    for exchange in exchanges:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        exchange.finish()
    for client in clients:
        assert client.read_reply("POST").status == 200
    assert router.peak_rss_bytes() - before < ALLOWED


def expect_body(stream: Stream, *, in_chunks: bool) -> None:
    assert (stream.discard_chunked() if in_chunks else stream.discard(BODY)) == BODY
