"""Stations in no order, of which any is drawn in one step."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.worker import WorkerId


class Seats:
    """A list from which a member is removed by putting the last one in its place."""

    __slots__ = ("_place", "_stations")

    def __init__(self) -> None:
        self._stations: list[Station] = []
        self._place: dict[Station, int] = {}

    def add(self, station: Station) -> None:
        self._place[station] = len(self._stations)
        self._stations.append(station)

    def remove(self, station: Station) -> None:
        place = self._place.pop(station)
        last = self._stations.pop()
        if last is not station:
            self._stations[place] = last
            self._place[last] = place

    def without(self, avoid: AbstractSet[WorkerId]) -> list[Station]:
        """Give the stations that are not to be avoided; the list itself if that is all of them. Not to be changed."""
        if not avoid:
            return self._stations
        return [station for station in self._stations if station.worker.worker_id not in avoid]
