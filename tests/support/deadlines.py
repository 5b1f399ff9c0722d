"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 10.0
"""Longest wait for anything that should happen at once; generous because test machines stall."""


def eventually(
    read: Callable[[], T], wanted: Callable[[T], bool], *, within_s: float = PATIENCE_S, every_s: float = 0.005
) -> T:
    """Return the first value of `read` that is `wanted`; fail with the last one seen at the deadline."""
    deadline_s = time.monotonic() + within_s
    while True:
        value = read()
        if wanted(value):
            return value
        assert time.monotonic() < deadline_s, f"still {value!r} after {within_s:g} s"
        time.sleep(every_s)


def eventually_equal(read: Callable[[], T], expected: T, *, within_s: float = PATIENCE_S) -> None:
    """Wait until `read` gives `expected`."""
    eventually(read, lambda value: value == expected, within_s=within_s)
