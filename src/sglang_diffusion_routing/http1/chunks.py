"""Follow a chunked body through its raw bytes, so that they can be forwarded as they came.

The bytes are checked (RFC 9112 §7.1), not decoded: what is forwarded is what was received. A chunk-size or
trailer line is held back until it is whole, so that nothing malformed leaves the router.
"""

from __future__ import annotations

import re

from sglang_diffusion_routing.errors import BadFraming, BodyTooLarge
from sglang_diffusion_routing.http1.fields import check_trailer

MAX_LINE_BYTES = 4096
"""A chunk-size line with its extensions; llhttp and h11 allow 16 KiB, real senders use below 20 bytes."""
MAX_TRAILER_BYTES = 16384

_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"(?:[ \t]*;[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*=[ \t]*(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    rb'|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t !-~\x80-\xff])*"))?)*'
)


class ChunkedBody:
    """One chunked body on its way.

    done: the last chunk and its trailers have been seen.
    payload: when a list, the decoded spans of each `feed` are appended to it.
    limit_bytes: of all chunks together, None for no limit.
    """

    __slots__ = ("_announced", "_carry", "_remaining", "_state", "_trailer_bytes", "done", "limit_bytes", "payload")

    _SIZE, _DATA, _DATA_END, _TRAILER = range(4)

    def __init__(self, payload: list[bytes] | None = None) -> None:
        self.done = False
        self.payload = payload
        self.limit_bytes: int | None = None
        self._announced = 0
        self._carry = b""
        self._remaining = 0
        self._state = self._SIZE
        self._trailer_bytes = 0

    @property
    def received(self) -> int:
        """Bytes of chunks that have come."""
        return self._announced - self._remaining

    def bound(self, limit_bytes: int) -> None:
        """Take no more than this from now on; `BodyTooLarge` when more is announced already."""
        self.limit_bytes = limit_bytes
        if self._announced > limit_bytes:
            raise BodyTooLarge(limit_bytes)

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take the next bytes; give (bytes that may be forwarded now, bytes that follow this body).

        Raises BadFraming, BadHeader for a malformed trailer, and BodyTooLarge.
        """
        if self._carry:
            data = self._carry + data
            self._carry = b""
        position = 0
        end = len(data)
        while position < end:
            if self._state == self._DATA:
                taken = min(self._remaining, end - position)
                if self.payload is not None:
                    self.payload.append(data[position : position + taken])
                position += taken
                self._remaining -= taken
                if self._remaining:
                    break
                self._state = self._DATA_END
                continue
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                self._hold(data[position:])
                break
            self._line(data[position:line_end])
            position = line_end + 2
            if self.done:
                break
        if position == end:
            return data, b""
        return data[:position], b"" if self._carry else data[position:]

    def _hold(self, partial: bytes) -> None:
        if self._state == self._DATA_END and partial != b"\r":
            raise BadFraming("a chunk is longer than its size says")
        limit = MAX_LINE_BYTES if self._state == self._SIZE else MAX_TRAILER_BYTES
        if len(partial) > limit:
            raise BadFraming("a line of the chunked body is too long")
        if b"\n" in partial or b"\r" in partial[:-1]:
            raise BadFraming("a line of the chunked body does not end in CRLF")
        self._carry = partial

    def _line(self, line: bytes) -> None:
        if self._state == self._SIZE:
            match = _SIZE_LINE.fullmatch(line) if len(line) <= MAX_LINE_BYTES else None
            if match is None:
                raise BadFraming("a chunk size is malformed")
            self._remaining = int(match[1], 16)
            self._announced += self._remaining
            if self.limit_bytes is not None and self._announced > self.limit_bytes:
                raise BodyTooLarge(self.limit_bytes)
            self._state = self._DATA if self._remaining else self._TRAILER
        elif self._state == self._DATA_END:
            if line:
                raise BadFraming("a chunk is longer than its size says")
            self._state = self._SIZE
        elif line:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise BadFraming("the trailers are too long")
            check_trailer(line)
        else:
            self.done = True


def decoded(raw: bytes) -> bytes:
    """Give the payload of the chunks in `raw`, as far as it goes; for a look at a body's first bytes."""
    payload: list[bytes] = []
    ChunkedBody(payload).feed(raw)
    return b"".join(payload)
