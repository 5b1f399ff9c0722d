"""Which worker made a job: kind and id in, owner out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from sglang_diffusion_routing.core.worker import Worker, WorkerId

# Two ids and their record take about 0.5 kB, so a full map about 130 MB.
DEFAULT_CAP = 262_144
DEFAULT_TTL_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Pinned:
    """The worker that made the job, as it was then."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The worker that made the job has been removed."""

    url: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is remembered."""


Owner = Pinned | Gone | Unknown


_Entry = tuple[WorkerId, int, float]
"""Owner, its incarnation, and the instant of forgetting; a plain tuple, for one is made for every image."""


class Affinity:
    """Owners of jobs: bounded in number and time, oldest first out. Every step is O(1), amortised."""

    def __init__(self, cap: int = DEFAULT_CAP, ttl_s: float = DEFAULT_TTL_S) -> None:
        self._cap = cap
        self._ttl_s = ttl_s
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._jobs_of: dict[int, int] = {}
        self._gone: dict[int, str] = {}
        # The oldest entry may have been forgotten since, so not before this.
        self._next_expiry_s = -inf

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, kind: str, job_id: str, worker: Worker, now_s: float) -> None:
        """Note that the worker made the job; what was noted under this id before is forgotten."""
        key, entries = (kind, job_id), self._entries
        if key in entries:
            self._drop(key)
        if now_s >= self._next_expiry_s:
            self._drop_expired(now_s)
        self._enter(key, (worker.worker_id, worker.incarnation, now_s + self._ttl_s))

    def _enter(self, key: tuple[str, str], entry: _Entry) -> None:
        if len(self._entries) >= self._cap:
            self._drop(next(iter(self._entries)))
        self._entries[key] = entry
        self._jobs_of[entry[1]] = self._jobs_of.get(entry[1], 0) + 1

    def restore(self, jobs: Iterable[tuple[str, str, Pinned | Gone, float]]) -> None:
        """Take in what an earlier run of the router knew, before anything is remembered.

        Args:
            jobs: kind, id, owner and instant of forgetting of each, the first to be forgotten first.
        """
        # A worker that is gone has no incarnation in this run; below zero no other gets in its way.
        absent: dict[str, int] = {}
        for kind, job_id, owner, expires_s in jobs:
            if isinstance(owner, Gone):
                worker_id, incarnation = WorkerId(owner.url), absent.setdefault(owner.url, -1 - len(absent))
                self._gone[incarnation] = owner.url
            else:
                worker_id, incarnation = owner.worker_id, owner.incarnation
            self._enter((kind, job_id), (worker_id, incarnation, expires_s))

    def owner(self, kind: str, job_id: str, now_s: float) -> Owner:
        """Say who made the job."""
        entry = self._entries.get((kind, job_id))
        if entry is None:
            return Unknown()
        worker_id, incarnation, expires_s = entry
        if expires_s <= now_s:
            return Unknown()
        url = self._gone.get(incarnation)
        return Pinned(worker_id, incarnation) if url is None else Gone(url)

    def forget(self, kind: str, job_id: str) -> None:
        """Forget a job, as after its deletion."""
        if (kind, job_id) in self._entries:
            self._drop((kind, job_id))

    def forget_worker(self, incarnation: int, url: str) -> None:
        """Let the jobs of a removed worker answer that it is gone."""
        if incarnation in self._jobs_of:
            self._gone[incarnation] = url

    def jobs_of(self, incarnation: int) -> int:
        """Count the jobs remembered of a worker."""
        return self._jobs_of.get(incarnation, 0)

    def _drop_expired(self, now_s: float) -> None:
        while self._entries:
            key, (_, _, self._next_expiry_s) = next(iter(self._entries.items()))
            if self._next_expiry_s > now_s:
                return
            self._drop(key)
        self._next_expiry_s = -inf

    def _drop(self, key: tuple[str, str]) -> None:
        _, incarnation, _ = self._entries.pop(key)
        self._jobs_of[incarnation] -= 1
        if not self._jobs_of[incarnation]:
            del self._jobs_of[incarnation]
            self._gone.pop(incarnation, None)
