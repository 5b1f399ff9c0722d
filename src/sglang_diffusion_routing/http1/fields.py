"""Which header fields a proxy reads, drops or rewrites (RFC 9110 §7.6.1, RFC 9112 §6)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sglang_diffusion_routing.errors import BadFraming, BadHeader, BadHost, UnknownCoding

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

REQUEST_SPECIAL = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"traceparent",
    b"x-request-id",
    b"idempotency-key",
}
"""Fields of a request that need more than to be copied."""

KEPT_SPECIAL = frozenset({b"content-length", b"expect", b"traceparent", b"x-request-id", b"idempotency-key"})
"""Those of them that are read and copied as well."""

LOCATIONS = frozenset({b"location", b"content-location"})
KEPT_IN_REPLY = LOCATIONS | {b"content-length", b"x-request-id"}
REPLY_SPECIAL = HOP_BY_HOP | KEPT_IN_REPLY

ROUTER_PREFIX = b"x-sglang-router-"
"""Fields that are the router's own: a client's are read and not passed on, a worker's are dropped."""

NEVER_IN_TRAILERS = HOP_BY_HOP | {b"content-length", b"host", b"expect"}
"""Fields that a trailer section must not carry (RFC 9110 §6.5.1)."""

_USUAL_TOKENS = {word: frozenset({word.lower()}) for word in (b"keep-alive", b"Keep-Alive", b"close", b"Close")}
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host", b"expect"})
"""Never dropped because Connection names them: without its length a body would be read as the next message."""
_UNLISTED = frozenset({b"close", b"keep-alive", b"upgrade"}) | _FRAMING
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def content_length(value: bytes) -> int:
    """Read a Content-Length; signs, padding and lists are refused (RFC 9112 §6.3, rule 5)."""
    if not _LENGTH.fullmatch(value):
        raise BadFraming("Content-Length must be one unsigned decimal number without padding")
    return int(value)


def is_chunked(codings: Sequence[bytes]) -> bool:
    """Accept exactly `chunked` as transfer coding (RFC 9112 §6.1).

    Raises:
        UnknownCoding: it is another coding, or others and chunked at the end.
        BadFraming: it is no list of codings, or chunked is not the last of them, or is in it twice.
    """
    if len(codings) == 1 and codings[0].lower() == b"chunked":
        return True
    tokens = [token.strip(b" \t").lower() for token in b",".join(codings).split(b",")]
    if all(map(_TOKEN.fullmatch, tokens)) and b"chunked" not in tokens[:-1]:
        raise UnknownCoding("the only transfer coding understood here is 'chunked'")
    raise BadFraming("Transfer-Encoding is malformed")


def checked_host(value: bytes) -> bytes:
    """Accept a Host of name and optional port; a path, userinfo, list or empty value is refused (RFC 9112 §3.2)."""
    if not _HOST.fullmatch(value):
        raise BadHost("Host must be one host name or address with an optional port")
    return value


def connection_tokens(values: Sequence[bytes]) -> frozenset[bytes]:
    """Split Connection fields into lower-case tokens."""
    if len(values) == 1 and (known := _USUAL_TOKENS.get(values[0])) is not None:
        return known
    tokens = set()
    for value in values:
        for token in value.lower().split(b","):
            if stripped := token.strip(b" \t"):
                tokens.add(stripped)
    return frozenset(tokens)


def without_nominated(lines: list[bytes], tokens: frozenset[bytes]) -> list[bytes]:
    """Drop the header lines whose fields Connection names (RFC 9110 §7.6.1)."""
    if tokens <= _UNLISTED:
        return lines
    named = tokens - _UNLISTED
    return [line for line in lines if line.partition(b":")[0].lower() not in named]


def first_field(lines: list[bytes], name: bytes) -> bytes | None:
    """Give the value of the first of these header lines whose field is `name` (lower case), or None."""
    for line in lines:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


def without(lines: list[bytes], name: bytes) -> list[bytes]:
    """Drop the header lines of one field (lower case)."""
    return [line for line in lines if line.partition(b":")[0].lower() != name]


def check_trailer(line: bytes) -> None:
    """Refuse a trailer line that is malformed or that would change the framing if merged."""
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
        raise BadHeader("a trailer line is malformed")
    if name.lower() in NEVER_IN_TRAILERS:
        raise BadFraming("a trailer carries a field that is not allowed there")


_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def has_control_characters(value: bytes) -> bool:
    """Tell whether `value` holds a control character other than tab."""
    return _CONTROL.search(value) is not None
