"""Look at the first bytes of a body for one string, without reading the rest."""

from __future__ import annotations

import json
import re

_STRING = rb'"(?:[^"\\\x00-\x1f]|\\.)*"'
_TOKEN = re.compile(_STRING + rb"|[{}\[\],:]|[^\s\"{}\[\],:]+")
_BOUNDARY = re.compile(rb'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)


def json_string(prefix: bytes, *names: str) -> str | None:
    """Find the value of the first member called one of `names` in a JSON object, of which `prefix` is the beginning.

    Only members of the object itself count, and those of an object called `data` in it. None when there is none, or
    when it is no string, or when it lies behind the end of `prefix`.
    """
    wanted = {json.dumps(name).encode(): order for order, name in enumerate(names)}
    best: tuple[int, str] | None = None
    depth = 0
    allowed = {1}
    key: bytes | None = None
    last = b""
    for match in _TOKEN.finditer(prefix):
        token = match[0]
        if token in {b"{", b"["}:
            depth += 1
            if depth > 1 and key == b'"data"' and depth - 1 in allowed:
                allowed.add(depth)
            key = None
        elif token in {b"}", b"]"}:
            if depth > 1:
                allowed.discard(depth)
            depth -= 1
            key = None
        elif token == b":":
            key = last
        elif token == b",":
            key = None
        elif key in wanted and depth in allowed and token[:1] == b'"' and match.end() < len(prefix):
            order = wanted[key]
            if best is None or order < best[0]:
                best = (order, _decode(token))
        last = token
    return None if best is None else best[1]


def _decode(token: bytes) -> str:
    try:
        return str(json.loads(token))
    except ValueError:
        return ""


def named_model(prefix: bytes, content_type: bytes) -> str | None:
    """Find the `model` that a request names in the beginning of its body, JSON or a multipart form."""
    if b"multipart/form-data" in content_type.lower():
        return form_field(prefix, content_type, "model")
    return json_string(prefix, "model")


def form_field(prefix: bytes, content_type: bytes, name: str) -> str | None:
    """Find a text field of a multipart form, of which `prefix` is the beginning; None when it is not in there."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        return None
    mark = b"--" + (match[1] or match[2])
    wanted = b'name="%b"' % name.encode()
    for part in prefix.split(mark)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        if re.search(rb"[;\s]" + wanted, head) and b"filename=" not in head:
            return value.removesuffix(b"\r\n").decode("utf-8", "replace")
    return None
