"""Read a request head with llhttp and say how its body is framed.

Whole heads only: the connection finds the empty line, so that body bytes never pass through the parser.
llhttp refuses folded lines, bare CR or LF, control characters, space before the colon, repeated lengths and
a length beside a coding; what it lets through is checked here.
"""

from __future__ import annotations

import re
from copy import copy
from functools import lru_cache

import httptools

from sglang_diffusion_routing.errors import (
    BadFraming,
    BadHeader,
    BadHost,
    BadRequest,
    BadTarget,
    UnknownExpectation,
    UnknownMethod,
    UriTooLong,
)
from sglang_diffusion_routing.http1.fields import (
    KEPT_SPECIAL,
    REQUEST_SPECIAL,
    ROUTER_PREFIX,
    checked_host,
    connection_tokens,
    content_length,
    first_field,
    is_chunked,
    without,
    without_nominated,
)

_PREFIX = len(ROUTER_PREFIX)
_NO_TOKENS: frozenset[bytes] = frozenset()
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")
_PLAIN = frozenset({b"host", b"content-length"})
REMEMBERED_HEADS = 256
REMEMBERED_BYTES = 2048
"""At most half a mebibyte of heads is kept; longer ones are read each time."""
_AUTHORITY_END = re.compile(rb"[/?]")


class RequestHead:
    """A request's head, checked. Not to be changed once it is parsed.

    method, target: as sent; path: target up to `?`, of an absolute form the part after the authority.
    query: without `?`, None if there is none. lines: end-to-end header lines as sent, each with its CRLF.
    block: the same joined, with the transfer coding.
    content_length: bytes, None when there is no such field. has_body: there is more to come than the head.
    router_fields: x-sglang-router-* in lower case.
    """

    __slots__ = (
        "_specials",
        "block",
        "chunked",
        "content_length",
        "expects_continue",
        "forwarded_for",
        "forwarded_host",
        "forwarded_proto",
        "has_body",
        "host",
        "http_10",
        "idempotency_key",
        "keep_alive",
        "lines",
        "method",
        "path",
        "query",
        "request_id",
        "router_fields",
        "size_bytes",
        "target",
        "traceparent",
        "upgrade",
        "via",
    )

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.method = b""
        self.target = b""
        self.path = b""
        self.query: bytes | None = None
        self.host = b""
        self.http_10 = False
        self.keep_alive = True
        self.lines: list[bytes] = []
        self.block = b""
        self.content_length: int | None = None
        self.chunked = False
        self.has_body = False
        self.expects_continue = False
        self.upgrade: bytes | None = None
        self.via: list[bytes] = []
        self.forwarded_for: list[bytes] = []
        self.forwarded_proto: bytes | None = None
        self.forwarded_host: bytes | None = None
        self.traceparent: bytes | None = None
        self.request_id: bytes | None = None
        self.idempotency_key: bytes | None = None
        self.router_fields: dict[bytes, bytes] = {}
        self._specials: dict[bytes, list[bytes]] = {}

    def field(self, name: bytes) -> bytes | None:
        """Give the first end-to-end field called `name` (lower case), or None."""
        return first_field(self.lines, name)

    def with_block_of(self, lines: list[bytes]) -> RequestHead:
        """Give the same head as one that sends these lines on; what is read of it is what was read."""
        twin = copy(self)
        twin.block = self._block_of(lines)
        return twin

    def _block_of(self, lines: list[bytes]) -> bytes:
        block = b"".join(lines)
        return block + b"Transfer-Encoding: chunked\r\n" if self.chunked else block

    # llhttp's callbacks

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower in REQUEST_SPECIAL:
            self._specials.setdefault(lower, []).append(value.strip(b" \t"))
            if lower not in KEPT_SPECIAL:
                return
        elif lower[:_PREFIX] == ROUTER_PREFIX:
            self.router_fields[lower] = value.strip()
            return
        self.lines.append(b"%b: %b\r\n" % (name, value))

    def check_codings(self) -> None:
        """Raise what is wrong with the transfer codings, if they were read."""
        if codings := self._specials.get(b"transfer-encoding"):
            is_chunked(codings)

    def settle(self) -> None:
        """Turn the special fields into attributes; raise what a proxy must refuse."""
        specials = self._specials
        self._settle_host_and_target(specials.get(b"host"))
        if lengths := specials.get(b"content-length"):
            self.content_length = content_length(lengths[0])
        if codings := specials.get(b"transfer-encoding"):
            self.chunked = is_chunked(codings)
        self.has_body = self.chunked or bool(self.content_length)
        if not specials.keys() <= _PLAIN:
            self._settle_rest(specials)
        elif self.http_10:
            self.keep_alive = False
        if self.method == b"CONNECT":
            # What follows may be meant for the other end of the tunnel that is refused.
            self.keep_alive = False
        self.block = self._block_of(self.lines)

    def _settle_rest(self, specials: dict[bytes, list[bytes]]) -> None:
        tokens = _NO_TOKENS
        if connections := specials.get(b"connection"):
            tokens = connection_tokens(connections)
            self.lines = without_nominated(self.lines, tokens)
        self.keep_alive = b"close" not in tokens
        for value in specials.get(b"expect", ()):
            if value.lower() != b"100-continue":
                raise UnknownExpectation("the only expectation understood here is 100-continue")
            self.expects_continue = True
        upgrade = specials.get(b"upgrade")
        if upgrade and b"upgrade" in tokens and self.method == b"GET" and not self.has_body:
            # No other protocol is offered: h2c would let a client talk past the route table.
            self.upgrade = upgrade[0] if len(upgrade) == 1 and upgrade[0].lower() == b"websocket" else None
        if self.http_10:
            self._settle_http_10(tokens)
        self.via = specials.get(b"via", [])
        self.forwarded_for = specials.get(b"x-forwarded-for", [])
        self.forwarded_proto = specials.get(b"x-forwarded-proto", [None])[-1]
        self.forwarded_host = specials.get(b"x-forwarded-host", [None])[-1]
        self.traceparent = specials.get(b"traceparent", [None])[0]
        self.request_id = specials.get(b"x-request-id", [None])[0]
        self.idempotency_key = specials.get(b"idempotency-key", [None])[0]

    def _settle_http_10(self, tokens: frozenset[bytes]) -> None:
        if self.chunked:
            raise BadFraming("HTTP/1.0 knows no transfer codings")
        self.keep_alive = b"keep-alive" in tokens and b"close" not in tokens
        self.upgrade = None
        if self.expects_continue:
            # RFC 9110 §10.1.1: an expectation from HTTP/1.0 is ignored; such a client never sees a 1xx.
            self.expects_continue = False
            self.lines = without(self.lines, b"expect")

    def _settle_host_and_target(self, hosts: list[bytes] | None) -> None:
        if hosts is None:
            if not self.http_10:
                raise BadHost("Host is missing")
        elif len(hosts) > 1:
            raise BadHost("there must be exactly one Host")
        else:
            self.host = checked_host(hosts[0])
        if self.target[:1] != b"/":
            self._settle_other_forms()
        if b"#" in self.target:
            # RFC 9112 §3.2: not for the wire; some servers cut it off and others do not, so a route would be a guess.
            raise BadTarget("a request target has no fragment")
        self.path, mark, query = self.target.partition(b"?")
        self.query = query if mark else None
        if b"%00" in self.path:
            raise BadTarget("the path holds an encoded NUL")

    def _settle_other_forms(self) -> None:
        """Reduce the absolute form to a path; pass `*` of OPTIONS and the authority of CONNECT (RFC 9112 §3.2)."""
        target = self.target
        scheme, separator, rest = target.partition(b"://")
        if separator and scheme.lower() in {b"http", b"https"}:
            authority = _AUTHORITY_END.split(rest, 1)[0]
            # RFC 9112 §3.2.2: the authority of an absolute target replaces Host.
            self.host = checked_host(authority)
            path = rest[len(authority) :]
            self.target = path if path[:1] == b"/" else b"/" + path
        elif not (target == b"*" and self.method == b"OPTIONS") and self.method != b"CONNECT":
            raise BadTarget("the request target must be a path")


def parse_request_head(raw: bytes, max_uri_bytes: int) -> RequestHead:
    """Read one whole request head, with its empty line; raise a `BadRequest` that says what is wrong with it.

    The result is shared between requests whose heads are the same to the byte, as those of a rollout mostly are.
    """
    if len(raw) <= REMEMBERED_BYTES:
        return _remembered(raw, max_uri_bytes)
    return _parse(raw, max_uri_bytes)


def _parse(raw: bytes, max_uri_bytes: int) -> RequestHead:
    head = RequestHead(len(raw))
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        head.check_codings()
        raise request_error(error, raw) from None
    if len(head.target) > max_uri_bytes:
        raise UriTooLong(f"the request target is longer than {max_uri_bytes} bytes", limit_bytes=max_uri_bytes)
    method = parser.get_method()
    head.method = method
    # llhttp also reads RTSP and ICE, forgives a doubled space, and knows 0.9 and 2.0.
    line_length = len(method) + len(head.target) + 10
    if raw[line_length : line_length + 2] != b"\r\n" or raw[line_length - 8 : line_length - 1] != b"HTTP/1.":
        raise BadRequest("the request line must be: method, target, HTTP/1.1 or HTTP/1.0")
    head.http_10 = raw[line_length - 1 : line_length] == b"0"
    head.settle()
    return head


# A pure function of the bytes: looking a head up costs 0.2 of the 3.4 microseconds that reading it does.
_remembered = lru_cache(maxsize=REMEMBERED_HEADS)(_parse)


def request_error(error: Exception, raw: bytes) -> BadRequest:
    """Give our error for what llhttp says about a request that begins with `raw`."""
    text = str(error)
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        if _METHOD.match(raw) is None:
            return BadRequest("this is not HTTP/1.1: it does not begin with a method and a space")
        return UnknownMethod("the method is not known")
    if isinstance(error, httptools.HttpParserInvalidURLError):
        return BadTarget("the request target holds a character that is not allowed")
    if "Content-Length" in text or "Transfer-Encoding" in text:
        return BadFraming(f"the body's length is not clear: {text}")
    if "header" in text.lower():
        return BadHeader(f"a header line is malformed: {text}")
    return BadRequest(f"the request is not valid HTTP/1.1: {text}")
