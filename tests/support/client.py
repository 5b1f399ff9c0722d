"""A client that sends exactly the bytes it is told to."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from support.deadlines import PATIENCE_S
from support.wire import Body, Ended, Fields, Stream, split_head, values

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) ([\x20-\x7e\x80-\xff\t]*)")


@dataclass(frozen=True, slots=True)
class Interim:
    """A 1xx reply."""

    status: int
    fields: Fields


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete final reply.

    framing: "none", "sized", "chunked" or "close"; raw: head and body as they came, interim replies not included.
    """

    status: int
    reason: bytes
    fields: Fields
    body: bytes
    framing: str
    raw: bytes
    trailers: Fields = ()
    interim: tuple[Interim, ...] = ()

    def values(self, name: bytes) -> list[bytes]:
        return values(self.fields, name)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of an error of the router's own."""
        assert self.values(b"content-type") == [b"application/json"], f"not an error of the router: {self!r}"
        error = self.json()
        assert isinstance(error["error"], str), error
        assert error["error"], error
        return str(error["code"])


class Client(Stream):
    """One client connection to 127.0.0.1:`port`; `receive_buffer` makes a slow reader honest."""

    def __init__(self, port: int, *, timeout_s: float = PATIENCE_S, receive_buffer: int | None = None) -> None:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(timeout_s)
        try:
            sock.connect(("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        super().__init__(sock, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_interim(self) -> Interim:
        """Read one reply head that must be a 1xx."""
        status, _, fields, _ = self._read_reply_head()
        assert status < 200, f"a final {status} instead of a 1xx"
        return Interim(status, fields)

    def read_reply(self, method: str = "GET") -> Reply:
        """Read one reply to `method` whole (RFC 9112 §6.3); Ended or ConnectionResetError when it is cut short."""
        interim: list[Interim] = []
        status, reason, fields, head = self._read_reply_head()
        while 100 <= status < 200 and status != 101:
            interim.append(Interim(status, fields))
            status, reason, fields, head = self._read_reply_head()
        framing, body = self._read_reply_body(method, status, fields)
        return Reply(status, reason, fields, body.content, framing, head + body.raw, body.trailers, tuple(interim))

    def ask(self, *parts: bytes) -> Reply:
        """Send a request and read its reply."""
        self.send(*parts)
        return self.read_reply(parts[0].split(b" ", 1)[0].decode("latin-1"))

    def _read_reply_head(self) -> tuple[int, bytes, Fields, bytes]:
        head = self.read_head()
        line, fields = split_head(head)
        match = STATUS_LINE.fullmatch(line)
        assert match is not None, f"bad status line {line!r}"
        return int(match[1]), match[2], fields, head

    def _read_reply_body(self, method: str, status: int, fields: Fields) -> tuple[str, Body]:
        lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1 or method == "HEAD", f"ambiguous framing: {fields!r}"
        if method == "HEAD" or status in {101, 204, 304}:
            assert status not in {101, 204} or not (lengths or codings), f"{status} with framing: {fields!r}"
            return "none", Body(b"", b"")
        if codings:
            assert codings == [b"chunked"], codings
            return "chunked", self.read_chunked()
        if lengths:
            assert lengths[0].isdigit(), lengths
            content = self.read_exactly(int(lengths[0]))
            return "sized", Body(content, content)
        assert values(fields, b"connection") == [b"close"], f"a reply that ends by closing does not say so: {fields!r}"
        content = self.read_to_end()
        return "close", Body(content, content)


Connect = Callable[[], Client]
"""Opens one more connection."""


class Crowd(list[Client]):
    """Many connections at once, closed together."""

    def join(self, port: int, *, receive_buffer: int | None = None) -> Client:
        self.append(Client(port, receive_buffer=receive_buffer))
        return self[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self:
            client.close()


def request(
    method: bytes = b"GET",
    target: bytes = b"/probe",
    *fields: bytes,
    body: bytes | None = None,
    host: bytes | None = b"router.test",
    version: bytes = b"HTTP/1.1",
) -> bytes:
    """Build a request; `fields` are whole lines without CR LF, `body` adds its Content-Length."""
    lines = [method + b" " + target + b" " + version]
    if host is not None:
        lines.append(b"Host: " + host)
    lines.extend(fields)
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def ask(port: int, *parts: bytes) -> Reply:
    """Send one request on a connection of its own and read the reply."""
    with Client(port) as client:
        return client.ask(*parts)


def cut_short(client: Client, method: str = "GET") -> str:
    """Read a reply that must not end well; tell how it ended: "reset" or "short"."""
    try:
        reply = client.read_reply(method)
    except ConnectionResetError:
        return "reset"
    except Ended:
        return "short"
    raise AssertionError(f"a reply that looks complete: {reply.status}, {reply.framing}, {len(reply.body)} bytes")


@contextmanager
def connections(port: int) -> Iterator[Connect]:
    """Open connections to a port, all of them closed at the end."""
    clients: list[Client] = []

    def opened() -> Client:
        clients.append(Client(port))
        return clients[-1]

    try:
        yield opened
    finally:
        for client in clients:
            client.close()
