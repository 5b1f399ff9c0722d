"""Read files again while the router runs: keys, certificates, and the logs that somebody has moved away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from sglang_diffusion_routing.errors import BadSetting

_log = structlog.get_logger(__name__)

Read = Callable[[], Callable[[], None]]
"""Reads, in a thread, and gives what puts the result in place, on the loop; `BadSetting` leaves all as it is."""


class Reloads:
    """What there is to read again; each part by itself, so that one bad file keeps no other back."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, Read]] = []
        self._running = asyncio.Lock()

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, name: str, read: Read) -> None:
        """Have something read again with the rest. name: for the log."""
        self._parts.append((name, read))

    async def run(self) -> None:
        """Read all again; what cannot be read stays as it was."""
        async with self._running:
            for name, read in self._parts:
                try:
                    put = await asyncio.to_thread(read)
                except BadSetting as error:
                    _log.error("reload_failed", what=name, why=error.message)
                else:
                    put()
                    _log.info("reloaded", what=name)
