"""Which workers work may not go to, when it demands weights as new as some version, or one worker alone."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.work import LineKey
from sglang_diffusion_routing.core.worker import WorkerId

REMEMBERED = 256
"""Versions whose workers are remembered; trainers ask for the latest few, but clients may name what they like."""


class Demands:
    """For each version that is asked for, the workers that do not have it, or anything later.

    They are looked up once and remembered until a worker's record changes: the ledger changes with the workers only.
    """

    def __init__(self, ledger: Ledger, stations: Mapping[WorkerId, Station]) -> None:
        self._ledger = ledger
        self._stations = stations
        self._unmet: dict[str, frozenset[WorkerId]] = {}

    def forget(self) -> None:
        """Take in that a worker's record has changed."""
        self._unmet.clear()

    def avoid(self, key: LineKey) -> AbstractSet[WorkerId]:
        """Give the workers that work must not go to: those that failed it, and those whose weights are too old."""
        wanted = key.min_version
        if wanted is None:
            return key.avoid
        unmet = self._unmet.get(wanted)
        if unmet is None:
            if len(self._unmet) >= REMEMBERED:
                self._unmet.clear()
            unmet = self._unmet[wanted] = frozenset(
                worker_id for worker_id, station in self._stations.items() if not self._meets(station, wanted)
            )
        return unmet | key.avoid if key.avoid else unmet

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

    def _meets(self, station: Station, wanted: str) -> bool:
        worker = station.worker
        return self._ledger.meets(worker.weight_group, worker.loaded, wanted)
