"""What an operation asks of its transport: send this, wait, fetch that into a file."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """A request. What is None is not sent; `files` makes a multipart form of `form`."""

    method: str
    path: str
    json: Any = None
    params: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    form: Mapping[str, str] | None = None
    files: tuple[tuple[str, tuple[str, bytes, str]], ...] = ()


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request whose reply, if it is 200 or 206, is written out as it comes.

    on_head: called with the status and the fields before the first byte; gives where to write.
    on_bytes: called with the bytes written so far, of this reply.
    """

    send: Send
    on_head: Callable[[int, Mapping[str, str]], BinaryIO]
    on_bytes: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is to be done for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole reply; names of headers are in lower case. The body of what was fetched is empty."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Step = Send | Fetch | Rest
Operation = Generator[Step, Answer, T]
"""Yields steps, is sent the answer to each (an empty one to `Rest`), and returns its result.

A transport that gets no answer throws `Unreachable` into it. So one description serves the blocking client, the
asynchronous one and the tests.
"""

NO_ANSWER = Answer(0, {}, b"")
