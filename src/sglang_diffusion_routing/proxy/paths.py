"""The normal form of a path, by which a route is decided however the path is spelt."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote_to_bytes

_ODD = re.compile(rb"[%;\\]|//|/\.|/$")


def normal_path(path: bytes) -> bytes:
    """Give the path as the most lenient server would read it.

    Percent-encodings are decoded once, as workers do; backslashes become slashes, parameters after `;` go,
    repeated slashes merge, dot segments are resolved (RFC 3986 §5.2.4), a trailing slash goes.
    """
    if _ODD.search(path) is None:
        return path
    decoded = unquote_to_bytes(path).replace(b"\\", b"/")
    segments: list[bytes] = []
    for raw in decoded.split(b"/"):
        segment = raw.partition(b";")[0]
        if segment == b"..":
            if segments:
                segments.pop()
        elif segment not in {b"", b"."}:
            segments.append(segment)
    return b"/" + b"/".join(segments)


def query_value(query: bytes | None, *names: str) -> str | None:
    """Give the first value of the first of `names` that the query has and that is not empty."""
    if not query:
        return None
    found = parse_qs(query.decode("latin-1"))
    for name in names:
        if name in found:
            return found[name][0]
    return None
