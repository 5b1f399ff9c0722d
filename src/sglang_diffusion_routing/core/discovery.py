"""Decide who joins and who leaves when a list of workers that somebody else keeps is read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import InvalidField, InvalidWorkerUrl

LABEL = "discovered"
"""The label of a worker that was discovered; its value is the source. Without it, a worker is somebody else's."""

READINGS_TO_LEAVE = 2
"""Readings in a row that must do without a worker before it leaves: one answer may be cut short, or half written."""


@dataclass(frozen=True, slots=True)
class DnsName:
    """A name whose every address is a worker, all on one port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"dns://{WorkerUrl('http', self.host, self.port).display_id}"


@dataclass(frozen=True, slots=True)
class ListFile:
    """A file that lists workers."""

    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"


Source = DnsName | ListFile


def parse_source(text: str) -> Source:
    """Read `dns://NAME:PORT` or `file:PATH`.

    Raises:
        InvalidField: it is neither.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "file":
        path = rest.removeprefix("//")
        if not path:
            raise InvalidField("discover", f"{text!r} names no file")
        return ListFile(path)
    if scheme != "dns" or not rest.startswith("//"):
        raise InvalidField("discover", f"{text!r} is neither dns://NAME:PORT nor file:PATH")
    try:
        # A worker's URL in all but its scheme, with the same hosts refused.
        url = WorkerUrl.parse("http:" + rest)
    except InvalidWorkerUrl as error:
        raise InvalidField("discover", error.message.replace("worker URL 'http:", "'dns:", 1)) from None
    if WorkerUrl.parse("https:" + rest).port != url.port:
        raise InvalidField("discover", f"{text!r} names no port")
    return DnsName(url.host, url.port)


@dataclass(frozen=True, slots=True)
class Named:
    """A worker as a source names it; labels and cap None to leave alone what it has."""

    url: WorkerUrl
    labels: tuple[tuple[str, str], ...] | None = None
    max_concurrency: int | None = None

    @property
    def worker_id(self) -> WorkerId:
        """Give the id that it has, or would have."""
        return WorkerId(str(self.url))


@dataclass(frozen=True, slots=True)
class Change:
    """What follows from a reading: who is taken in, or takes on other labels or another cap, and who is removed."""

    joins: tuple[Named, ...] = ()
    leaves: tuple[WorkerId, ...] = ()


class Roll:
    """Who is named, source by source.

    - Who is named for the first time joins; who is registered by somebody else stays that somebody's.
    - Who joined here leaves when its source has named it no more `READINGS_TO_LEAVE` times in a row, and no other does.
    - Who was removed by hand while it is named stays out until it is named anew.
    """

    def __init__(self) -> None:
        self._named: dict[str, dict[WorkerId, Named]] = {}
        self._missed: dict[WorkerId, int] = {}

    def read(self, source: str, named: Iterable[Named], registered: Mapping[WorkerId, str | None]) -> Change:
        """Take in what a source names now, which is somebody.

        Args:
            registered: every registered worker, and the source that it was taken in from, None for no source.
        """
        for gone in self._missed.keys() - registered.keys():
            del self._missed[gone]
        before = self._named.get(source, {})
        now = {one.worker_id: one for one in named}
        self._named[source] = now
        joins = [
            one
            for worker_id, one in now.items()
            if before.get(worker_id) != one and registered.get(worker_id, source) == source
        ]
        own = [worker_id for worker_id, origin in registered.items() if origin == source]
        return Change(tuple(joins), tuple(worker_id for worker_id in own if self._leaves(worker_id)))

    def _leaves(self, worker_id: WorkerId) -> bool:
        """Count a reading with or without a worker, and tell whether it is the one that makes it leave."""
        if any(worker_id in named for named in self._named.values()):
            self._missed.pop(worker_id, None)
            return False
        missed = self._missed.get(worker_id, 0) + 1
        self._missed[worker_id] = missed
        return missed == READINGS_TO_LEAVE

    def failed(self, source: str, worker_id: WorkerId) -> None:
        """Note that a worker could not join: the next reading that names it names it for the first time."""
        self._named.get(source, {}).pop(worker_id, None)
