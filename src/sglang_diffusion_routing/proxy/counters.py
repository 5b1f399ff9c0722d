"""Plain numbers that the data plane counts and a scrape reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from sglang_diffusion_routing.core.work import Lease
from sglang_diffusion_routing.metrics.histogram import WORK_S, Distribution, Histogram

_QUICK_S = WORK_S[0]


class RouteCounts:
    """What has become of the requests of one route, and how long its work took, in seconds, phase by phase.

    statuses: how many, by class of the reply's status: the third is that of 2xx, the first counts those without reply.
    queued: it waited for a worker. head: from its arrival to the head of its reply. generated: its worker was at it.
    relayed: from the head of its reply to the last byte of it.

    quick, quick_s: pieces of work that took no longer, all in all, than the first bound, and the sum of that: every
    phase of theirs counts at that bound. The clock has milliseconds: all of their time is taken to be that of the
    worker, and so to their reply's head. To look at each phase would cost more than all else that is counted.
    """

    __slots__ = ("generated", "head", "queued", "quick", "quick_s", "relayed", "statuses")

    def __init__(self) -> None:
        self.statuses = [0] * 10
        self.queued = Histogram(WORK_S)
        self.head = Histogram(WORK_S)
        self.generated = Histogram(WORK_S)
        self.relayed = Histogram(WORK_S)
        self.quick = 0
        self.quick_s = 0.0

    @property
    def has_times(self) -> bool:
        """Whether any of this was work, whose times are taken."""
        phases = (self.queued, self.head, self.generated, self.relayed)
        return bool(self.quick) or any(any(phase.counts) for phase in phases)

    def read(self) -> tuple[Distribution, Distribution, Distribution, Distribution]:
        """Give the times: queued, head, generated, relayed."""
        return (
            self.queued.read(self.quick),
            self.head.read(self.quick, self.quick_s),
            self.generated.read(self.quick, self.quick_s),
            self.relayed.read(self.quick),
        )


@dataclass(slots=True)
class DataPlaneCounters:
    """Totals since the start; sizes in bytes.

    routes: by name. refusals: the router's own error replies by code.
    """

    routes: defaultdict[str, RouteCounts] = field(default_factory=lambda: defaultdict(RouteCounts))
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
        self.routes[route].statuses[status // 100] += 1
        self.bytes_to_workers += body_bytes
        self.bytes_to_clients += reply_bytes

    def done(
        self,
        route: str,
        status: int,
        body_bytes: int,
        reply_bytes: int,
        arrived_s: float,
        queued_s: float,
        head_s: float,
        lease: Lease,
    ) -> None:
        """Add one piece of work that has ended well, with its times. lease: ended."""
        times = self.routes[route]
        times.statuses[status // 100] += 1
        self.bytes_to_workers += body_bytes
        self.bytes_to_clients += reply_bytes
        now_s = lease.ended_s
        took_s = now_s - arrived_s
        if took_s <= _QUICK_S:
            times.quick += 1
            times.quick_s += took_s
        else:
            done_s = lease.done_s
            times.queued.observe(queued_s)
            times.head.observe(head_s - arrived_s)
            times.generated.observe((now_s if done_s is None else done_s) - lease.granted_s)
            times.relayed.observe(now_s - head_s)
