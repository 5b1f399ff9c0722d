"""Plain integers that the data plane counts and a scrape reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class DataPlaneCounters:
    """Totals since the start; sizes in bytes.

    requests: by route name a list of counts, whose index is the status class: 2 for 2xx, 0 when there was no reply.
    refusals: the router's own error replies by code.
    """

    requests: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * 10))
    refusals: Counter[str] = field(default_factory=Counter)
    bytes_to_workers: int = 0
    bytes_to_clients: int = 0
    retries: int = 0
    retries_over_budget: int = 0
    hedges: int = 0
    hedges_won: int = 0
    orphans: int = 0
    orphans_now: int = 0
    tunnels: int = 0
    tunnels_now: int = 0
    connections: int = 0
    connections_now: int = 0

    def count(self, route: str, status: int, body_bytes: int, reply_bytes: int) -> None:
        """Add one request that has ended. status: 0 when there was no reply."""
        self.requests[route][status // 100] += 1
        self.bytes_to_workers += body_bytes
        self.bytes_to_clients += reply_bytes
