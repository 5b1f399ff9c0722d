"""Read lists of workers again and again, and pass on what they name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from sglang_diffusion_routing.core.discovery import DnsName, Named, Source
from sglang_diffusion_routing.launchers.discovery.dns import DnsReader
from sglang_diffusion_routing.launchers.discovery.file import FileReader
from sglang_diffusion_routing.launchers.discovery.reading import Reader, Unreadable
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

ANSWER_LIMIT_S = 10.0
"""Longer than the 5 s after which resolvers ask the next server (resolv.conf(5), `timeout`)."""


class Sink(Protocol):
    """Whoever keeps the pool in accord with what is named."""

    async def read(self, source: str, named: Sequence[Named]) -> None:
        """Take in what a source names now, which is somebody."""


class Watch:
    """The lists that are watched. What one named last counts while it cannot be read, which is said once.

    Args:
        interval_s: between two readings of a list.
    """

    def __init__(self, sources: Sequence[Source], sink: Sink, *, interval_s: float) -> None:
        self._readers: Mapping[str, Reader] = {str(source): _reader(source) for source in sources}
        self._sink = sink
        self._interval_s = interval_s
        self._tasks = Tasks()
        self._failing: dict[str, str] = {}

    async def start(self) -> None:
        """Read each list once, and go on reading; a first reading that fails is repeated like any other."""
        first = [self._tasks.spawn(self._read(source), name=f"read {source}") for source in self._readers]
        if first:
            await asyncio.wait(first)
        for source in self._readers:
            self._tasks.spawn(self._keep_reading(source), name=f"watch {source}")

    async def aclose(self) -> None:
        """Read no more."""
        await self._tasks.cancel_all()
        for reader in self._readers.values():
            await reader.aclose()

    async def _keep_reading(self, source: str) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self._read(source)
            except Exception:  # noqa: BLE001 - a task's boundary: one reading that fails must not be the last
                _log.exception("discovery_failed", source=source)

    async def _read(self, source: str) -> None:
        try:
            named = await self._readers[source].read()
        except Unreadable as unreadable:
            if source not in self._failing:
                _log.warning("workers_not_discovered", source=source, reason=f"{source} {unreadable}")
            self._failing[source] = str(unreadable)
            return
        if self._failing.pop(source, None) is not None:
            _log.info("workers_discovered_again", source=source, named=len(named))
        await self._sink.read(source, named)


def _reader(source: Source) -> Reader:
    if isinstance(source, DnsName):
        return DnsReader(source, limit_s=ANSWER_LIMIT_S)
    return FileReader(source.path)
