"""What a way of starting workers offers: the supervisor knows backends and running workers by these names alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Fact = str | int | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker ended.

    reason: half a sentence that goes behind the worker's name: "ended with status 1", "was killed by SIGKILL".
    tail: the last lines of its log, oldest first.
    """

    reason: str
    tail: tuple[str, ...] = ()


class LaunchFailed(Exception):
    """A worker could not be started; the same may succeed later.

    Attributes:
        ended: why, and what was written until then.
    """

    def __init__(self, reason: str, tail: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.ended = Ended(reason, tail)


class Launched(Protocol):
    """One worker that was started: from its process's first moment until nothing of it is left."""

    @property
    def url(self) -> str:
        """Its base URL, known before it listens."""

    @property
    def pid(self) -> int | None:
        """Its process on this machine, None elsewhere or when it has ended."""

    @property
    def log(self) -> str | None:
        """Where its output is kept, None where it cannot be named."""

    def facts(self) -> Mapping[str, Fact]:
        """Tell what else is worth showing of it: its GPUs, its node."""

    def tail(self, lines: int) -> tuple[str, ...]:
        """Give the last lines of its output, oldest first; cheap enough for the event loop."""

    async def wait(self) -> Ended:
        """Wait until nothing of it is left: its processes are gone, and with them the memory of its GPUs.

        Several may wait at the same time, and whoever comes later gets the same answer. Cancelling leaves it running.
        """

    async def terminate(self, grace_s: float) -> Ended:
        """Ask it to end, and kill what is left of it after `grace_s`; returns when nothing is.

        Cancelled, it has been asked to end; `kill` makes sure. Does nothing to one that has ended.
        """

    def kill(self) -> None:
        """End it at once, and all that it started; returns before it has ended. Does nothing to one that has."""


class Backend(Protocol):
    """A way of starting workers.

    A slot is a worker's place: 0, 1, ... `slots - 1`. At most one worker is in a slot at any time.
    """

    @property
    def slots(self) -> int:
        """How many workers there are to be."""

    @property
    def keeps_url(self) -> bool:
        """Whether a slot's next worker has the URL of the one before.

        Either way a worker that died stays registered, quarantined, until its successor serves. One that has another
        URL is then registered in its place, with its labels and its cap.
        """

    async def prepare(self) -> None:
        """Make sure of everything that can be known before the first worker starts: GPUs, ports, a cluster.

        Called once, and before `launch`.

        Raises:
            BadSetting: there are too few of them, or a setting cannot be met.
        """

    async def launch(self, slot: int) -> Launched:
        """Start the worker of a slot; returns when its process runs, long before it serves.

        Cancelled, nothing of it is left. The supervisor bounds neither this nor the loading in time but by its own
        `wait_timeout_s`.

        Raises:
            LaunchFailed: it did not start.
        """

    async def aclose(self) -> None:
        """Give back what is not a worker's: reservations, connections. Every worker has ended before."""
