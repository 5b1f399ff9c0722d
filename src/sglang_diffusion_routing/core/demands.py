"""Which workers work may not go to, when it demands weights as new as some version, or one worker alone."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.weights import BEFORE_ANY_REFIT, Ledger, shown_version
from sglang_diffusion_routing.core.work import Floor, LineKey
from sglang_diffusion_routing.core.worker import Worker, WorkerId

REMEMBERED = 256
"""Versions whose workers are remembered; trainers ask for the latest few, but clients may name what they like."""


class Demands:
    """For each version that is asked for, the workers that do not have it, or anything later.

    They are looked up once and remembered until a worker's record changes: the ledger changes with the workers only.
    """

    def __init__(self, ledger: Ledger, stations: Mapping[WorkerId, Station]) -> None:
        self._ledger = ledger
        self._stations = stations
        self._unmet: dict[str | Floor, frozenset[WorkerId]] = {}
        self._oldest: dict[str, int] = {}

    def forget(self) -> None:
        """Take in that a worker's record has changed."""
        self._unmet.clear()
        self._oldest.clear()

    def avoid(self, key: LineKey) -> AbstractSet[WorkerId]:
        """Give the workers that work must not go to: those that failed it, and those whose weights are too old."""
        avoid: AbstractSet[WorkerId] = key.avoid
        if key.min_version is not None:
            unmet = self._unmet_by(key.min_version)
            avoid = unmet | avoid if avoid else unmet
        if key.floor:
            unmet = self._unmet_by(key.floor)
            avoid = unmet | avoid if avoid else unmet
        return avoid

    def _unmet_by(self, wanted: str | Floor) -> frozenset[WorkerId]:
        unmet = self._unmet.get(wanted)
        if unmet is None:
            if len(self._unmet) >= REMEMBERED:
                self._unmet.clear()
            unmet = self._unmet[wanted] = frozenset(
                worker_id for worker_id, station in self._stations.items() if not self._meets(station.worker, wanted)
            )
        return unmet

    def bound(self, lane: Lane, key: LineKey) -> Station | None:
        """Give the station of the one worker that work is tied to, None while it has to wait for it."""
        if key.bound is None:
            raise AssertionError("only work that is tied to a worker has a station of its own")
        station = self._stations.get(key.bound)
        if station is None or not station.open or lane not in station.lanes or key.bound in self.avoid(key):
            return None
        return station if station.load < station.cap or key.creates_job else None

    def targets(self) -> dict[str, str | None]:
        """Give each weight group's target, for whoever waited in vain; None before its first refit."""
        return {name: group.target for name, group in self._ledger.groups.items()}

    def place_of(self, worker: Worker) -> int:
        """Give the place of a worker's weights in its weight group's order; 0 for the oldest, and for unknown ones."""
        version = shown_version(worker.loaded)
        return self._place(worker.weight_group, version) if version is not None else 0

    def floor(self, newest: Mapping[str, int]) -> Floor:
        """Say of each weight group which weights work must have that goes there, where some serve that are older.

        Args:
            newest: place, in the weight group's order, of the oldest weights that will do.
        """
        return tuple(sorted((name, place) for name, place in newest.items() if place > self._oldest_serving(name)))

    def _oldest_serving(self, name: str) -> int:
        """Give the place of the oldest weights that a worker of the weight group may serve with; it never falls."""
        oldest = self._oldest.get(name)
        if oldest is None:
            group = self._ledger.group(name)
            oldest = self._place(name, BEFORE_ANY_REFIT if group.target is None else group.target)
            if group.previous is not None:
                oldest = min(oldest, self._place(name, shown_version(group.previous) or BEFORE_ANY_REFIT))
            self._oldest[name] = oldest
        return oldest

    def _place(self, name: str | None, version: str) -> int:
        return 0 if name is None else self._ledger.sequence_of(name, version) or 0

    def _meets(self, worker: Worker, wanted: str | Floor) -> bool:
        if isinstance(wanted, str):
            return self._ledger.meets(worker.weight_group, worker.loaded, wanted)
        return all(name != worker.weight_group or self.place_of(worker) >= place for name, place in wanted)
