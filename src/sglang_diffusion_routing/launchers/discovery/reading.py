"""What a list of workers says, or why it says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sglang_diffusion_routing.core.discovery import Named

LISTED_MAX = 4096
"""As many workers as a router takes in; a list that is longer is something else."""


class Unreadable(Exception):
    """A list could not be read, or names nobody; half a sentence that goes behind its name says why."""


class Reader(Protocol):
    """One list."""

    async def read(self) -> Sequence[Named]:
        """Give the workers that it names now: at least one, each once.

        Raises:
            Unreadable: nothing is known of what it names.
        """

    async def aclose(self) -> None:
        """Let go of what it holds."""


def checked(named: Sequence[Named]) -> Sequence[Named]:
    """Give each worker once; the first that names it counts.

    Raises:
        Unreadable: nobody is named, or too many are.
    """
    once: dict[str, Named] = {}
    for one in named:
        once.setdefault(one.worker_id, one)
    if not once:
        raise Unreadable("names no worker")
    if len(once) > LISTED_MAX:
        raise Unreadable(f"names more than {LISTED_MAX} workers")
    return list(once.values())
