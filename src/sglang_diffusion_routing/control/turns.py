"""Let those that change weights have their weight groups one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sglang_diffusion_routing.errors import TooManyRefits

WAITING_MAX = 16
"""Those that wait for their turn; each may hold a body on disk."""


@dataclass(slots=True)
class _Turn:
    """One group's: held by one, `users` hold it or wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns:
    """Turns by weight group, first come, first served. What needs other groups does not wait."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self.waiting = 0

    @asynccontextmanager
    async def of(self, groups: Collection[str]) -> AsyncIterator[None]:
        """Wait until these groups are free, and have them for the length of the block.

        Groups are taken in sorted order, so that two that share some cannot wait for each other. The place in the
        line of the first group is taken when the block is entered, not before.

        Raises:
            TooManyRefits: it would have to wait, and enough do already.
        """
        waits = any(name in self._turns for name in groups)
        if waits and self.waiting >= WAITING_MAX:
            raise TooManyRefits(self.waiting)
        held: list[str] = []
        self.waiting += waits
        try:
            try:
                for name in sorted(groups):
                    await self._take(name)
                    held.append(name)
            finally:
                self.waiting -= waits
            yield
        finally:
            for name in held:
                self._give_back(name)

    async def _take(self, name: str) -> None:
        turn = self._turns.setdefault(name, _Turn())
        turn.users += 1
        try:
            await turn.lock.acquire()
        except BaseException:
            self._leave(name)
            raise

    def _give_back(self, name: str) -> None:
        self._turns[name].lock.release()
        self._leave(name)

    def _leave(self, name: str) -> None:
        """Forget a group that nobody has or waits for: the names are the clients'."""
        turn = self._turns[name]
        turn.users -= 1
        if not turn.users:
            del self._turns[name]
