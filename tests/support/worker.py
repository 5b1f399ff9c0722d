"""A worker whose part the test plays: it hands over every request and sends back exactly what it is told to.

The test reads like the conversation: the client sends, `worker.receive()` gives the request as it arrived, the test
answers, the client reads. What the router asks to know the worker by is answered without the test's help.
"""

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Self

from support.deadlines import PATIENCE_S
from support.exchange import IMAGE_TASKS, Exchange, model_list, sized_reply
from support.wire import Ended, Stream

Handler = Callable[[Exchange], None]


class ScriptedWorker:
    """An HTTP/1.1 server on a free loopback port; a context manager.

    arrivals: where requests are handed over when no handler is set; workers may share one.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[str] = IMAGE_TASKS,
        model: str = "tiny",
        arrivals: "queue.Queue[Exchange] | None" = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.handler: Handler | None = None
        self.failures: list[BaseException] = []
        self.requests = 0
        self.work_connections = 0
        self.automatic: dict[tuple[bytes, bytes], bytes] = {
            (b"GET", b"/health"): sized_reply(200, body=b'{"status":"ok"}'),
            (b"GET", b"/v1/models"): sized_reply(200, b"Content-Type: application/json", body=model_list(model, tasks)),
            (b"POST", b"/get_weights_checksum"): sized_reply(
                200, b"Content-Type: application/json", body=b'{"transformer":"2d4c05ea258472b7"}'
            ),
            (b"GET", b"/v1/list_loras"): sized_reply(
                200, b"Content-Type: application/json", body=b'{"loaded_adapters":[],"active":{}}'
            ),
        }
        self._receive_buffer = receive_buffer
        self._arrivals = arrivals if arrivals is not None else queue.Queue()
        self._lock = threading.Lock()
        self._streams: dict[Stream, Exchange | None] = {}
        self._listener: socket.socket | None = None
        self.port = 0
        self.listen()

    @property
    def authority(self) -> bytes:
        return b"127.0.0.1:%d" % self.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def receive(self, *, within_s: float = PATIENCE_S) -> Exchange:
        """Give the next request that was not a health check; fail if none comes."""
        return receive(self._arrivals, within_s=within_s)

    def drop_arrivals(self) -> list[bytes]:
        """Close the connections of requests that nobody received; give their heads."""
        return drop(self._arrivals)

    def hang_up(self) -> None:
        """Close every connection whose exchange is unfinished, so that the router has no work here."""
        for _, exchange in self._snapshot():
            if exchange is not None and not exchange.keeps_connection:
                exchange.close()

    @property
    def is_listening(self) -> bool:
        return self._listener is not None

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse_connections(self) -> None:
        """Stop listening; open connections go on."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def die(self) -> None:
        """End as a killed process does: no listener, every connection reset."""
        self.refuse_connections()
        for stream, exchange in self._snapshot():
            with contextlib.suppress(OSError):
                stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Wakes the thread that reads from it; the reset leaves when both have let go of the socket.
                stream.sock.shutdown(socket.SHUT_RD)
            stream.sock.close()
            if exchange is not None:
                exchange.close()

    def close(self) -> None:
        self.refuse_connections()
        for stream, exchange in self._snapshot():
            stream.close()
            if exchange is not None:
                exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _snapshot(self) -> list[tuple[Stream, Exchange | None]]:
        with self._lock:
            return list(self._streams.items())

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            stream = Stream(sock)
            with self._lock:
                self._streams[stream] = None
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: Stream) -> None:
        try:
            self._serve_requests(stream)
        except (OSError, Ended):
            pass
        except BaseException as failure:  # noqa: BLE001  (a request that is not strict HTTP; the fixture reports it)
            self.failures.append(failure)
        finally:
            stream.close()
            with self._lock:
                self._streams.pop(stream, None)

    def _serve_requests(self, stream: Stream) -> None:
        connection = 0
        while True:
            stream.sock.settimeout(None)
            head = stream.read_head()
            stream.sock.settimeout(PATIENCE_S)
            method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
            if automatic := self.automatic.get((method, target)):
                _ = Exchange(self, stream, head, connection).body
                stream.send(automatic)
                continue
            with self._lock:
                self.requests += 1
                if not connection:
                    self.work_connections += 1
                    connection = self.work_connections
            exchange = Exchange(self, stream, head, connection)
            with self._lock:
                self._streams[stream] = exchange
            if self.handler is not None:
                self.handler(exchange)
            else:
                self._arrivals.put(exchange)
            exchange.wait_until_finished()
            if not exchange.keeps_connection:
                return


class ScriptedFleet:
    """Several scripted workers behind one router, whose requests come in one line."""

    def __init__(self, count: int, *, tasks: Sequence[str] = IMAGE_TASKS) -> None:
        self._arrivals: queue.Queue[Exchange] = queue.Queue()
        self.workers = [ScriptedWorker(tasks=tasks, arrivals=self._arrivals) for _ in range(count)]

    @property
    def urls(self) -> list[str]:
        return [worker.url for worker in self.workers]

    def receive(self, *, within_s: float = PATIENCE_S) -> Exchange:
        return receive(self._arrivals, within_s=within_s)

    def drop_arrivals(self) -> list[bytes]:
        """Close the connections of requests that nobody received; give their heads."""
        return drop(self._arrivals)

    def hang_up(self) -> None:
        """Close every connection whose exchange is unfinished, so that the router has no work here."""
        for worker in self.workers:
            worker.hang_up()

    def restore(self) -> list[ScriptedWorker]:
        """Take all handlers off and bring every worker that died back; give those."""
        dead = [worker for worker in self.workers if not worker.is_listening]
        for worker in self.workers:
            worker.handler = None
            worker.listen()
        return dead

    def take_failures(self) -> list[BaseException]:
        """Give what went wrong in the workers' threads since the last call."""
        failures = [failure for worker in self.workers for failure in worker.failures]
        for worker in self.workers:
            worker.failures = []
        return failures

    def other(self, worker: ScriptedWorker) -> ScriptedWorker:
        """Give the one other worker of two."""
        (other,) = [candidate for candidate in self.workers if candidate is not worker]
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.close()


def receive(arrivals: "queue.Queue[Exchange]", *, within_s: float = PATIENCE_S) -> Exchange:
    """Take the next request; fail if none comes in time."""
    try:
        return arrivals.get(timeout=within_s)
    except queue.Empty:
        raise AssertionError(f"no request reached a worker within {within_s:g} s") from None


def drop(arrivals: "queue.Queue[Exchange]") -> list[bytes]:
    """Empty the line of requests, closing the connection of each; give their heads."""
    heads = []
    while not arrivals.empty():
        exchange = arrivals.get()
        heads.append(exchange.head)
        exchange.close()
    return heads


def echo_target(exchange: Exchange) -> None:
    """Handler: answer with the request's method, target and body."""
    content = exchange.body.content
    exchange.answer(body=exchange.method + b" " + exchange.target + b" " + content)
