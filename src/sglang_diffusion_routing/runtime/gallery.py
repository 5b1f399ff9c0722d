"""Keep the last generated images, small, for those who look at the dashboard.

Replies are looked at as they pass: the first bytes of a few of them are collected, and read in a thread. Where more is
made than can be shown, most of it is let pass.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from sglang_diffusion_routing.core.work import Lease
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.http1.chunks import ChunkedBody
from sglang_diffusion_routing.runtime.pictures import Picture, pictures_in
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

MAX_REPLY_BYTES = 16 * 2**20
"""Of a larger reply the beginning is looked at: a rollout begins with its first sample, of 12 MiB at 1024 x 1024."""
AT_ONCE = 2
"""Replies that are collected or read at the same time."""
PATIENCE_S = 10.0
"""A reply that takes longer, for its client reads slowly, gives way to another."""
GAP_S = 0.25
"""Between two replies that are looked at; more after one that took long to read."""
BUSY_SHARE = 0.1
"""Of one core, at most so much goes into reading them."""

_MSGPACK = "rollout"
OUTCOMES = ("made", "missed", "none", "unreadable")
"""What becomes of a reply: thumbnails, nothing for being one too many, none in it, or it was not what it should be."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One image that was made.

    name: unguessable. sequence: of all so far. at_s: on the loop's clock. weights: version it was made on, None when
    nobody can say. piece: number of the lease.
    """

    name: str
    sequence: int
    at_s: float
    worker: WorkerId
    route: str
    weights: str | None
    piece: int
    picture: Picture


class Collected:
    """The beginning of one reply, as it passes."""

    __slots__ = ("_end", "_is_chunked", "_size_bytes", "_spans", "began_s", "lease", "weights")

    def __init__(
        self,
        lease: Lease,
        weights: str | None,
        began_s: float,
        end: Callable[[Collected, bool], None],
        *,
        is_chunked: bool,
    ) -> None:
        self.lease = lease
        self.weights = weights
        self.began_s = began_s
        self._end: Callable[[Collected, bool], None] | None = end
        self._is_chunked = is_chunked
        self._spans: list[bytes] = []
        self._size_bytes = 0

    def take(self, span: bytes) -> None:
        """Take in what comes next."""
        if self._end is None:
            return
        self._spans.append(span)
        self._size_bytes += len(span)
        if self._size_bytes >= MAX_REPLY_BYTES:
            self.end(whole=True)

    def end(self, *, whole: bool) -> None:
        """No more will come; to be called again does nothing."""
        end, self._end = self._end, None
        if end is None:
            return
        if not whole:
            self._spans.clear()
        end(self, whole)

    def body(self) -> bytearray:
        """Give all of it, once; put together in a thread, span by span, so that the loop is not held up."""
        whole = bytearray()
        chunks = ChunkedBody([]) if self._is_chunked else None
        for span in self._spans:
            if chunks is None or chunks.payload is None:
                whole += span
            else:
                chunks.feed(span)
                whole += b"".join(chunks.payload)
                chunks.payload.clear()
        self._spans.clear()
        return whole


class Gallery:
    """The last images.

    Args:
        capacity: images that are kept.
        now_s: the loop's clock.

    Attributes:
        outcomes: how many replies came to what.
    """

    def __init__(self, capacity: int, now_s: Callable[[], float]) -> None:
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._now_s = now_s
        self._kept: deque[Thumbnail] = deque(maxlen=capacity)
        self._sequence = 0
        self._collected: list[Collected] = []
        self._reading = asyncio.Lock()
        self._readers = 0
        self._next_s = -math.inf
        self._tasks = Tasks()

    async def aclose(self) -> None:
        """Read nothing any more."""
        await self._tasks.cancel_all()

    def collect(self, lease: Lease, weights: str | None, *, is_chunked: bool) -> Collected | None:
        """Begin to look at a reply with images; None: there is no time for it, or no room.

        Args:
            weights: version that it was made on, None when nobody can say.
            is_chunked: its bytes come with the frames of chunks.
        """
        now_s = self._now_s()
        if len(self._collected) + self._readers >= AT_ONCE:
            self._hurry(now_s)
        if now_s < self._next_s or len(self._collected) + self._readers >= AT_ONCE:
            self.outcomes["missed"] += 1
            return None
        self._next_s = now_s + GAP_S
        collected = Collected(lease, weights, now_s, self._ended, is_chunked=is_chunked)
        self._collected.append(collected)
        return collected

    def after(self, sequence: int) -> list[Thumbnail]:
        """Give those that were made after this one, the oldest first."""
        if sequence == self._sequence:
            return []
        return [thumbnail for thumbnail in self._kept if thumbnail.sequence > sequence]

    def find(self, name: str) -> Thumbnail | None:
        """Give the one of this name, unless it has given way to newer ones."""
        return next((thumbnail for thumbnail in self._kept if thumbnail.name == name), None)

    def _hurry(self, now_s: float) -> None:
        """Give up the one that has been collected for too long."""
        oldest = self._collected[0] if self._collected else None
        if oldest is not None and now_s - oldest.began_s > PATIENCE_S:
            oldest.end(whole=False)

    def _ended(self, collected: Collected, whole: bool) -> None:
        self._collected.remove(collected)
        if whole:
            self._readers += 1
            self._tasks.spawn(self._read(collected), name="read-thumbnails")
        else:
            self.outcomes["missed"] += 1

    async def _read(self, collected: Collected) -> None:
        lease = collected.lease
        try:
            async with self._reading:
                began_s = self._now_s()
                is_msgpack = lease.spec.route == _MSGPACK
                pictures = await asyncio.to_thread(_pictures_of, collected, is_msgpack=is_msgpack)
        except Exception as error:  # noqa: BLE001 - it reads what strangers have made; whatever comes of that ends here
            self.outcomes["unreadable"] += 1
            _log.debug("thumbnail_unreadable", worker=lease.worker.worker_id, error=type(error).__name__)
            return
        finally:
            self._readers -= 1
        now_s = self._now_s()
        self._next_s = max(self._next_s, now_s + (now_s - began_s) * (1 / BUSY_SHARE - 1))
        self.outcomes["made" if pictures else "none"] += 1
        for picture in pictures:
            self._keep(collected, picture, now_s)

    def _keep(self, collected: Collected, picture: Picture, now_s: float) -> None:
        lease = collected.lease
        self._sequence += 1
        self._kept.append(
            Thumbnail(
                secrets.token_urlsafe(12),
                self._sequence,
                now_s,
                lease.worker.worker_id,
                lease.spec.route,
                collected.weights,
                lease.lease_id,
                picture,
            )
        )


def _pictures_of(collected: Collected, *, is_msgpack: bool) -> list[Picture]:
    return pictures_in(collected.body(), is_msgpack=is_msgpack)
