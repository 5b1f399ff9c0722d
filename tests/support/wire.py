"""Bytes on a socket: reads HTTP/1.1 messages without forgiving anything, knows when the peer has read what was sent."""

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from support.deadlines import PATIENCE_S
from support.unread import unread_by_peer

Fields = tuple[tuple[bytes, bytes], ...]
"""Header fields in order: name as spelt, value without the whitespace around it."""

VISIBLE = rb"[\x21-\x7e\x80-\xff]"
FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:" + VISIBLE + rb"(?:[\x20-\x7e\x80-\xff\t]*" + VISIBLE + rb")?)?)[ \t]*"
)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\x20-\x7e\t]*)?")
LARGEST_HEAD = 256 * 1024


class Ended(EOFError):
    """The peer closed its side (FIN) where more bytes were due; `got` holds what came of them."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"the connection ended after {got[-200:]!r}")
        self.got = got


@dataclass(frozen=True, slots=True)
class Body:
    """A message body: as it came (`raw`, with chunk framing), as it was meant (`content`), and its trailers."""

    raw: bytes
    content: bytes
    trailers: Fields = ()
    chunked: bool = False


class Stream:
    """One connected TCP socket with a read buffer; every wait ends after `timeout_s` with TimeoutError.

    seen: every byte received, when it was set to an empty bytearray before.
    """

    def __init__(self, sock: socket.socket, *, timeout_s: float = PATIENCE_S) -> None:
        self.sock = sock
        self.sock.settimeout(timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seen: bytearray | None = None
        self.closed = threading.Event()
        self._unread = bytearray()

    def send(self, *parts: bytes) -> None:
        """Send each part as segments of its own: the next one leaves when the peer has read the one before."""
        for number, part in enumerate(parts):
            if number:
                self.wait_until_read()
            self.sock.sendall(part)

    def wait_until_read(self, *, at_most_s: float = 0.2) -> bool:
        """Wait until the peer's process has taken all sent bytes off its socket; False if it did not in time."""
        deadline_s = time.monotonic() + at_most_s
        while unread_by_peer(self.sock):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.0005)
        return True

    def read_line(self) -> bytes:
        """Read to CR LF, which are taken off; a bare CR or LF fails the test."""
        while (end := self._unread.find(b"\r\n")) < 0:
            assert len(self._unread) < LARGEST_HEAD, f"a line without end: {bytes(self._unread[:200])!r}"
            self._fill()
        line = bytes(self._unread[:end])
        del self._unread[: end + 2]
        assert b"\r" not in line, f"bare CR in {line!r}"
        assert b"\n" not in line, f"bare LF in {line!r}"
        return line

    def read_head(self) -> bytes:
        """Read up to and with the empty line; Ended if the peer closes first."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            assert len(self._unread) < LARGEST_HEAD, f"a head without end: {bytes(self._unread[:200])!r}"
            self._fill()
        head = bytes(self._unread[: end + 4])
        del self._unread[: end + 4]
        return head

    def read_exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            self._fill()
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    def read_chunked(self) -> Body:
        """Read a chunked body with its trailers (RFC 9112 §7.1)."""
        raw, content = bytearray(), bytearray()
        while True:
            line = self.read_line()
            raw += line + b"\r\n"
            size = CHUNK_SIZE.fullmatch(line)
            assert size is not None, f"bad chunk size line {line!r}"
            length = int(size[1], 16)
            if length == 0:
                break
            data = self.read_exactly(length + 2)
            assert data.endswith(b"\r\n"), f"chunk data of {length} bytes is not followed by CR LF"
            raw += data
            content += data[:-2]
        lines = []
        while line := self.read_line():
            lines.append(line)
        raw += b"".join(line + b"\r\n" for line in [*lines, b""])
        return Body(bytes(raw), bytes(content), parse_fields(lines), chunked=True)

    def discard_chunked(self) -> int:
        """Read a chunked body and give its size."""
        total = 0
        while size := int(self.read_line(), 16):
            total += len(self.read_exactly(size + 2)) - 2
        while self.read_line():
            pass
        return total

    def read_to_end(self) -> bytes:
        """Read until the peer closes cleanly; ConnectionResetError if it does not."""
        with contextlib.suppress(Ended):
            while True:
                self._fill()
        taken = bytes(self._unread)
        self._unread.clear()
        return taken

    def discard(self, size: int) -> int:
        """Read `size` bytes without keeping them and give the count, smaller only when the peer closed first."""
        got = min(size, len(self._unread))
        del self._unread[:got]
        buffer = bytearray(1 << 18)
        while got < size:
            more = self.sock.recv_into(buffer, min(len(buffer), size - got))
            if not more:
                break
            got += more
        return got

    def expect_end(self) -> None:
        """Fail unless the peer closes without sending another byte; a reset counts as closing."""
        try:
            rest = self.read_to_end()
        except ConnectionResetError:
            rest = bytes(self._unread)
        assert rest == b"", f"bytes where the connection should have closed: {rest[:300]!r}"

    def expect_abort(self) -> None:
        """Fail unless the connection ends by a reset."""
        try:
            rest = self.read_to_end()
        except ConnectionResetError:
            return
        raise AssertionError(f"a clean end after {rest[-100:]!r}")

    def has_bytes(self) -> bool:
        """Tell, without waiting, whether the peer has sent something or closed."""
        if self._unread:
            return True
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.sock.settimeout(PATIENCE_S)
        return True

    def half_close(self) -> None:
        """End our side (FIN); the peer may go on sending."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        # Shutdown first: a close alone does not wake another thread's recv.
        with contextlib.suppress(OSError):
            if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 0, 0):
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.closed.set()

    def _fill(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise Ended(bytes(self._unread))
        if self.seen is not None:
            self.seen += data
        self._unread += data


def parse_fields(lines: Iterable[bytes]) -> Fields:
    """Parse field lines strictly: token, colon, visible characters (RFC 9110 §5.5)."""
    fields = []
    for line in lines:
        match = FIELD.fullmatch(line)
        assert match is not None, f"bad field line {line!r}"
        fields.append((match[1], match[2]))
    return tuple(fields)


def split_head(head: bytes) -> tuple[bytes, Fields]:
    """Split a head into its start line and its fields, strictly."""
    assert head.endswith(b"\r\n\r\n"), f"unfinished head {head!r}"
    lines = head[:-4].split(b"\r\n")
    for line in lines:
        assert b"\r" not in line, f"bare CR in {line!r}"
        assert b"\n" not in line, f"bare LF in {line!r}"
    return lines[0], parse_fields(lines[1:])


def values(fields: Fields, name: bytes) -> list[bytes]:
    """Give the values of all fields of this name, in order."""
    return [value for spelt, value in fields if spelt.lower() == name.lower()]


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    """Frame one chunk."""
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """Frame a whole chunked body."""
    return b"".join(map(chunk, pieces)) + b"0\r\n" + trailers + b"\r\n"
