"""What the launchers need of the room that knows the workers and their work."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Answer(Enum):
    """What a worker says to the question for its health."""

    SERVES = "serves"
    NOT_YET = "not yet"
    """Nobody listens, it warms up, or it is too busy to say."""
    ENGINE_DIED = "engine died"
    """The process that generates has ended and only a restart helps, while the one that answers lives on."""


class Roster(Protocol):
    """The registered workers, by URL."""

    @property
    def asleep(self) -> bool:
        """Whether the fleet sleeps: its GPUs are somebody else's."""

    async def ask(self, url: str) -> Answer:
        """Ask a worker for its health, registered or not; ends within some seconds."""

    async def enlist(self, slot: int, url: str) -> None:
        """Let a slot's worker have work; it gets some once it has the weights of its group.

        One that is registered stays as it is, but that a `drain` before is over. When the slot's worker before had
        another URL, its labels and its cap are this one's, and it is removed.

        Raises:
            RouterError: it may not be a worker.
        """

    def died(self, url: str, reason: str) -> None:
        """Its process has ended: its work goes elsewhere, and none comes to it until it answers again."""

    def dismiss(self, slot: int) -> None:
        """Remove at once what is registered for a slot, if anything is."""

    def is_registered(self, url: str) -> bool:
        """Tell whether a worker is there; it may have been removed by an operator."""

    def is_suspected(self, url: str) -> bool:
        """Tell whether a worker fails its checks, so that it is worth asking why."""

    async def drain(self, url: str, *, for_good: bool, force: bool) -> None:
        """Give a worker no more work, and return when it has none, or when its drain limit has passed.

        Args:
            for_good: it is removed then, and otherwise held.
            force: at once; what runs goes elsewhere or fails.
        """
