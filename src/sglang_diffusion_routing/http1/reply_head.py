"""Read a reply head of a worker with llhttp and say how its body is framed."""

from __future__ import annotations

from functools import lru_cache

import httptools

from sglang_diffusion_routing.errors import BadFraming, BadRequest
from sglang_diffusion_routing.http1.fields import (
    KEPT_IN_REPLY,
    LOCATIONS,
    REPLY_SPECIAL,
    ROUTER_PREFIX,
    connection_tokens,
    content_length,
    first_field,
    has_control_characters,
    is_chunked,
    without,
    without_nominated,
)

_PREFIX = len(ROUTER_PREFIX)
REMEMBERED_HEADS = 256
REMEMBERED_BYTES = 1024
"""At most a quarter of a mebibyte of heads is kept; longer ones are read each time."""
_NO_TOKENS: frozenset[bytes] = frozenset()


class ReplyHead:
    """A worker's reply head, checked. Not to be changed once it is parsed.

    status: 100-999. lines: end-to-end header lines as sent, each with its CRLF. block: the same joined.
    status_line: as it goes to the client. has_location: one of them is Location or Content-Location.
    has_request_id: one of them is X-Request-Id.
    until_close: neither length nor coding, so the body ends with the connection.
    """

    __slots__ = (
        "_specials",
        "block",
        "chunked",
        "content_length",
        "has_location",
        "has_request_id",
        "http_10",
        "keep_alive",
        "lines",
        "reason",
        "status",
        "status_line",
        "until_close",
        "upgrade",
    )

    def __init__(self) -> None:
        self.status = 0
        self.status_line = b""
        self.reason = b""
        self.http_10 = False
        self.keep_alive = True
        self.lines: list[bytes] = []
        self.block = b""
        self.has_location = False
        self.has_request_id = False
        self.content_length: int | None = None
        self.chunked = False
        self.until_close = False
        self.upgrade: bytes | None = None
        self._specials: dict[bytes, list[bytes]] = {}

    @property
    def is_sized(self) -> bool:
        """The worker knows the length, so it has finished the work."""
        return self.content_length is not None

    def field(self, name: bytes) -> bytes | None:
        """Give the first end-to-end field called `name` (lower case), or None."""
        return first_field(self.lines, name)

    # llhttp's callbacks

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower in REPLY_SPECIAL:
            self._specials.setdefault(lower, []).append(value.strip(b" \t"))
            if lower not in KEPT_IN_REPLY:
                return
        elif lower[:_PREFIX] == ROUTER_PREFIX:
            return
        self.lines.append(b"%b: %b\r\n" % (name, value))

    def settle(self, *, bodiless: bool) -> None:
        """Turn the special fields into attributes; raise what cannot be passed on."""
        specials = self._specials
        if lengths := specials.get(b"content-length"):
            self.content_length = content_length(lengths[0])
        if codings := specials.get(b"transfer-encoding"):
            self.chunked = is_chunked(codings)
        tokens = _NO_TOKENS
        if connections := specials.get(b"connection"):
            tokens = connection_tokens(connections)
            self.lines = without_nominated(self.lines, tokens)
        self.keep_alive = b"close" not in tokens
        if self.http_10:
            self.keep_alive = self.keep_alive and b"keep-alive" in tokens
            if self.chunked:
                raise BadFraming("an HTTP/1.0 reply is chunked")
        self.has_location = not LOCATIONS.isdisjoint(specials)
        self.has_request_id = b"x-request-id" in specials
        if self.status == 204:
            # RFC 9110 §8.6: a 204 has no Content-Length, whatever the worker says.
            self.lines = without(self.lines, b"content-length")
        self.block = b"".join(self.lines)
        if upgrade := specials.get(b"upgrade"):
            self.upgrade = b", ".join(upgrade)
        if not bodiless and not self.chunked and self.content_length is None:
            self.until_close = True
            self.keep_alive = False


def parse_reply_head(raw: bytes, *, to_head: bool) -> ReplyHead:
    """Read one whole reply head; raise BadRequest (the caller makes it a 502) when its framing is not certain.

    The result is shared between replies whose heads are the same to the byte, as short ones within a second are.
    to_head: the request was HEAD, so that no body follows whatever the fields say.
    """
    if len(raw) <= REMEMBERED_BYTES:
        return _remembered(raw, to_head)
    return _parse(raw, to_head)


def _parse(raw: bytes, to_head: bool) -> ReplyHead:
    head = ReplyHead()
    parser = httptools.HttpResponseParser(head)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadRequest(str(error)) from None
    status = parser.get_status_code()
    version = raw[:9]
    if version == b"HTTP/1.0 ":
        head.http_10 = True
    elif version != b"HTTP/1.1 ":
        raise BadRequest("its version is neither HTTP/1.1 nor HTTP/1.0")
    if status < 100:
        raise BadRequest(f"its status is {status}")
    if has_control_characters(head.reason):
        raise BadRequest("its reason phrase holds control characters")
    head.status = status
    head.status_line = b"HTTP/1.1 %d %b\r\n" % (status, head.reason)
    head.settle(bodiless=to_head or status < 200 or status in {204, 304})
    return head


_remembered = lru_cache(maxsize=REMEMBERED_HEADS)(_parse)
