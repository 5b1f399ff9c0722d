"""The clients of the measures; each runs as a process and prints what it saw as JSON.

python clients.py posts PORT CONNECTIONS REQUESTS
python clients.py replies PORT CONNECTIONS REQUESTS SIZE
python clients.py slow-readers PORT CONNECTIONS SIZE SLOW_S
python clients.py uploads PORT CONNECTIONS SIZE SLOW_S sized|chunked
"""

import asyncio
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable

import uvloop

BODY = b'{"text":"a photograph of an astronaut riding a horse","sampling_params":{"max_new_tokens":1}}'
POST = (
    b"POST /generate HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
PIECE = bytes(2**20)
SLOW_READ, SLOW_PAUSE_S = 65536, 0.02


class ClosedLoop(asyncio.Protocol):
    """One connection that sends its next request when it has the reply to the last."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        end = self._unread.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self._unread, 0, end)
        if length is None or not self._unread.startswith(b"HTTP/1.1 200"):
            self._load.fail(self._unread[:300])
            return
        if len(self._unread) >= end + 4 + int(length[1]):
            self._unread = b""
            self._load.answered += 1
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.left(self)

    def _next(self) -> None:
        if self._load.unsent:
            self._load.unsent -= 1
            self._transport.write(POST)
        else:
            self._transport.close()


class Load:
    """So many small requests over so many connections."""

    def __init__(self, requests: int) -> None:
        self.unsent = requests
        self.answered = 0
        self._open: set[ClosedLoop] = set()
        self._error: bytes | None = None
        self._done = asyncio.Event()

    def connection(self) -> ClosedLoop:
        made = ClosedLoop(self)
        self._open.add(made)
        return made

    def fail(self, reply: bytes) -> None:
        self._error = reply
        self._done.set()

    def left(self, connection: ClosedLoop) -> None:
        self._open.discard(connection)
        if not self._open:
            self._done.set()

    async def run(self, port: int, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(self.connection, "127.0.0.1", port)
        await self._done.wait()
        if self._error is not None:
            raise SystemExit(f"not a good reply: {self._error!r}")


def posts(port: int, connections: int, requests: int) -> int:
    """Send small POSTs; give how many were answered."""

    async def run() -> int:
        load = Load(requests)
        await load.run(port, connections)
        return load.answered

    return uvloop.run(run())


def read_head(sock: socket.socket) -> tuple[int, int]:
    """Read a reply's head; give the length of its body and how much of it came with the head."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = sock.recv(4096)
        if not more:
            raise SystemExit(f"the connection ended after {data!r}")
        data += more
    length = LENGTH.search(data, 0, end)
    if length is None or not data.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"not a good reply: {data[:300]!r}")
    return int(length[1]), len(data) - end - 4


def read_body(sock: socket.socket, buffer: memoryview, left: int, slow_until_s: float = 0.0) -> None:
    """Take the rest of a body, in small sips first."""
    while left:
        slow = time.monotonic() < slow_until_s
        got = sock.recv_into(buffer, min(left, SLOW_READ if slow else len(buffer)))
        if not got:
            raise SystemExit(f"the connection ended {left} bytes too early")
        left -= got
        if slow:
            time.sleep(SLOW_PAUSE_S)


def side_by_side(connections: int, job: Callable[[int], None]) -> None:
    """Run the job in so many threads; end the process when one of them fails."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            job(number)
        except BaseException as failure:  # noqa: BLE001  (reported by the thread that waits)
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(str(failures[0]))


def connected(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(120)
    sock.connect(("127.0.0.1", port))
    return sock


def reply_request(size: int) -> bytes:
    return b"POST /reply/%d HTTP/1.1\r\nHost: bench\r\nContent-Length: 2\r\n\r\n{}" % size


def replies(port: int, connections: int, requests: int, size: int) -> int:
    """Fetch replies of `size` bytes as fast as they come, `requests` on each connection; give the bytes."""

    def fetch(_: int) -> None:
        buffer = memoryview(bytearray(2**20))
        with connected(port) as sock:
            for _ in range(requests):
                sock.sendall(reply_request(size))
                length, had = read_head(sock)
                read_body(sock, buffer, length - had)

    side_by_side(connections, fetch)
    return connections * requests * size


def slow_readers(port: int, connections: int, size: int, slow_s: float) -> int:
    """Fetch one reply of `size` bytes on each connection, slowly for `slow_s`; give the bytes."""
    slow_until_s = time.monotonic() + slow_s

    def fetch(_: int) -> None:
        buffer = memoryview(bytearray(2**18))
        with connected(port, receive_buffer=65536) as sock:
            sock.sendall(reply_request(size))
            length, had = read_head(sock)
            read_body(sock, buffer, length - had, slow_until_s)

    side_by_side(connections, fetch)
    return connections * size


def uploads(port: int, connections: int, size: int, slow_s: float, framing: str) -> int:
    """Send one body of `size` bytes on each connection to a worker that is slow for `slow_s`; give the bytes."""
    head = b"POST /take?slow_s=%d HTTP/1.1\r\nHost: bench\r\n" % slow_s
    piece, end = PIECE, b""
    if framing == "chunked":
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        piece, end = b"%x\r\n%b\r\n" % (len(PIECE), PIECE), b"0\r\n\r\n"
    else:
        head += b"Content-Length: %d\r\n\r\n" % size

    def send(_: int) -> None:
        with connected(port) as sock:
            sock.sendall(head)
            for _ in range(size // len(PIECE)):
                sock.sendall(piece)
            sock.sendall(end)
            length, had = read_head(sock)
            read_body(sock, memoryview(bytearray(4096)), length - had)

    side_by_side(connections, send)
    return connections * size


def main(kind: str, arguments: list[str]) -> None:
    """Run one client and print the seconds it took and the count that it gives."""
    begun_s = time.monotonic()
    match kind, arguments:
        case "posts", [port, connections, requests]:
            count = posts(int(port), int(connections), int(requests))
        case "replies", [port, connections, requests, size]:
            count = replies(int(port), int(connections), int(requests), int(size))
        case "slow-readers", [port, connections, size, slow_s]:
            count = slow_readers(int(port), int(connections), int(size), float(slow_s))
        case "uploads", [port, connections, size, slow_s, framing]:
            count = uploads(int(port), int(connections), int(size), float(slow_s), framing)
        case _:
            raise SystemExit(__doc__)
    print(json.dumps({"seconds": time.monotonic() - begun_s, "count": count}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
