"""Find values in msgpack where they lie, without copying or decoding the rest (https://github.com/msgpack/msgpack).

A rollout's reply is megabytes of tensors in a few dozen values. A decoder copies all of it, more than once, and holds
the interpreter while it does; here only the values' heads are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

MAX_VALUES = 10_000
"""Heads that are read of one reply: a sample of a rollout has about 100."""
SHORT_BYTES = 1024
"""A key, or a value that is decoded: a shape has about 10 bytes."""

_FIXED = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
"""Bytes behind a type that has always as many."""
_COUNTED = {
    0xC4: ("bytes", 1, 0), 0xC5: ("bytes", 2, 0), 0xC6: ("bytes", 4, 0),
    0xC7: ("value", 1, 1), 0xC8: ("value", 2, 1), 0xC9: ("value", 4, 1),
    0xD9: ("value", 1, 0), 0xDA: ("value", 2, 0), 0xDB: ("value", 4, 0),
    0xDC: ("array", 2, 0), 0xDD: ("array", 4, 0), 0xDE: ("map", 2, 0), 0xDF: ("map", 4, 0),
}  # fmt: skip
"""By type: what it is, in how many bytes it is counted, and how many more come before what it holds."""


class CutOff(Exception):
    """The value goes on behind the end of what is there."""


class Head(NamedTuple):
    """Of one value: where what it holds begins, how many bytes that is, and how many values follow as its own."""

    kind: str
    begin: int
    size: int
    values: int


class Packed:
    """A reply, or its beginning."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._read = 0

    def entries(self, at: int) -> Iterator[int]:
        """Give where each value of an array begins."""
        head = self._head_of(at, "array")
        at = head.begin
        for _ in range(head.values):
            yield at
            at = self._end(at)

    def members(self, at: int) -> Iterator[tuple[Any, int]]:
        """Give the key of each member of a map, and where its value begins."""
        head = self._head_of(at, "map")
        at = head.begin
        for _ in range(head.values // 2):
            key = self.short(at)
            at = self._end(at)
            yield key, at
            at = self._end(at)

    def short(self, at: int) -> Any:
        """Decode a short value."""
        end = self._end(at)
        if end - at > SHORT_BYTES:
            raise ValueError(f"{end - at} bytes where a name, a number or a shape is wanted")
        return msgpack.unpackb(self._view[at:end], strict_map_key=False)

    def payload(self, at: int) -> memoryview:
        """Give the bytes of a binary value."""
        head = self._head_of(at, "bytes")
        self._check(head.begin + head.size)
        return self._view[head.begin : head.begin + head.size]

    def is_null(self, at: int) -> bool:
        """Tell whether there is nothing."""
        self._check(at + 1)
        return self._view[at] == 0xC0

    def _head_of(self, at: int, kind: str) -> Head:
        head = self._head(at)
        if head.kind != kind:
            raise ValueError(f"{head.kind} where {kind} is wanted")
        return head

    def _end(self, at: int) -> int:
        """Give where a value ends, with all that is in it."""
        left = 1
        while left:
            head = self._head(at)
            at = head.begin + head.size
            left += head.values - 1
        return at

    def _head(self, at: int) -> Head:
        self._read += 1
        if self._read > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        self._check(at + 1)
        tag = self._view[at]
        at += 1
        if tag < 0x80 or tag >= 0xE0:
            return Head("value", at, 0, 0)
        if tag < 0xC0:
            return _fix(tag, at)
        if tag in _FIXED:
            return Head("value", at, _FIXED[tag], 0)
        if tag not in _COUNTED:
            raise ValueError(f"no msgpack: {tag:#x}")
        kind, width, more = _COUNTED[tag]
        count = self._number(at, width)
        begin = at + width + more
        if kind == "array":
            return Head(kind, begin, 0, count)
        return Head(kind, begin, 0, 2 * count) if kind == "map" else Head(kind, begin, count, 0)

    def _number(self, at: int, width: int) -> int:
        self._check(at + width)
        return int.from_bytes(self._view[at : at + width], "big")

    def _check(self, end: int) -> None:
        if end > len(self._view):
            raise CutOff


def _fix(tag: int, at: int) -> Head:
    """Read a head whose length is in its type: a map, an array or a string."""
    if tag < 0x90:
        return Head("map", at, 0, 2 * (tag & 0x0F))
    if tag < 0xA0:
        return Head("array", at, 0, tag & 0x0F)
    return Head("value", at, tag & 0x1F, 0)
