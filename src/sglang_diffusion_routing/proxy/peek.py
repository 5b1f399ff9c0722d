"""Look at the first bytes of a body for one string, without reading the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from operator import itemgetter

# Possessive (`*+`), so that a string whose end is not there is read once, and not again from each quote in it.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+("?)|[{}\[\],:]|[^\s"{}\[\],:]++', re.DOTALL)
# The usual case, 35 microseconds cheaper than a scan: SGLang's replies begin with their `id`. Ranges of characters
# are matched at twice the speed of classes, and of what is not in one.
_FIRST_MEMBER = re.compile(rb'\s*+\{\s*+"([a-z_]++)"\s*+:\s*+"([-.:/0-9A-Z_a-z]++)"')
_FIELD_NAME = re.compile(rb'[;\s]name="([^"]*)"')
_BOUNDARY = re.compile(rb'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)


def json_string(prefix: bytes, *names: str) -> str | None:
    """Find the value of the first member called one of `names` in a JSON object, of which `prefix` is the beginning.

    Only members of the object itself count, and those of an object called `data` in it; earlier names win. None when
    there is none, or when it is no string, or when it lies behind the end of `prefix`.
    """
    first = _FIRST_MEMBER.match(prefix)
    if first is not None and first[1] == names[0].encode():
        return first[2].decode()
    wanted = {json.dumps(name).encode(): order for order, name in enumerate(names)}
    found = [(wanted[key], value) for key, value in _strings(prefix) if key in wanted]
    return _decode(min(found, key=itemgetter(0))[1]) if found else None


def _strings(prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give (key, value) of the string members, both still encoded, as far as `prefix` goes."""
    depth = 0
    open_depths = {1}
    key: bytes | None = None
    last = b""
    for match in _TOKEN.finditer(prefix):
        token = match[0]
        if match[1] == b"":
            return  # the prefix ends within this string
        if token in b"{[":
            depth += 1
            if key == b'"data"' and depth == 2:
                open_depths.add(depth)
            key = None
        elif token in b"}]":
            open_depths.discard(max(depth, 2))
            depth -= 1
            key = None
        elif token == b":":
            key = last
        elif token == b",":
            key = None
        elif key is not None and depth in open_depths and match[1]:
            yield key, token
        last = token


def json_members(prefix: bytes, names: Collection[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Give (name, value) of the members of a JSON object that have one of these names, as far as they are whole.

    Values are as they are written, objects and arrays too.

    Args:
        prefix: the object's first bytes.
    """
    depth, begins = 0, -1
    key: bytes | None = None
    last = b""
    for match in _TOKEN.finditer(prefix):
        token, at = match[0], match.start()
        if match[1] == b"":
            return  # the prefix ends within this string
        if depth == 1 and token == b":":
            key, begins = last[1:-1], -1
        elif depth == 1 and token in b",}":
            if key is not None and key in names and begins >= 0:
                yield key, prefix[begins:at].rstrip()
            key = None
        elif key is not None and begins < 0:
            begins = at
        depth += (token in b"{[") - (token in b"}]")
        last = token


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


def form_boundary(content_type: bytes) -> bytes | None:
    """Give what stands between the parts of a multipart body, None when a body of this type has none."""
    match = _BOUNDARY.search(content_type)
    return None if match is None else match[1] or match[2]


def form_field(prefix: bytes, content_type: bytes, name: str) -> str | None:
    """Find a text field of a multipart form, of which `prefix` is the beginning; None when it is not in there."""
    value = next((value for _, value in form_fields(prefix, content_type, (name.encode(),))), None)
    return None if value is None else value.decode("utf-8", "replace")


def form_fields(prefix: bytes, content_type: bytes, names: Collection[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Give (name, value) of the text fields of a multipart form that have one of these names, as far as they are whole.

    Args:
        prefix: the form's first bytes.
    """
    boundary = form_boundary(content_type)
    if boundary is None:
        return
    mark = b"--" + boundary
    for part in prefix.split(mark)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        named = _FIELD_NAME.search(head)
        if named is not None and named[1] in names and b"filename=" not in head:
            yield named[1], value.removesuffix(b"\r\n")
