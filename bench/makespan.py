"""How much later than necessary a batch ends under each policy, in a simulation of the scheduler itself.

    python bench/makespan.py [--seeds 5] [--policy NAME ...] [--scenario NAME ...] [--json FILE]

The scheduler is the router's own, with its queue, caps and learned speeds; workers are simulated on a clock that is set
forward from one end of work to the next. Each worker does one piece at a time, first come first served, as SGLang's
does. Nothing is known of the workers when the first batch begins; the second finds what was learned of the first.

A figure is the makespan over its lower bound: the larger of all work over all speeds, and the longest piece on the
fastest worker. No schedule can be below 1. The exit status is 1 when `least-work` is above its limit, or above
least-request, in any scenario.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.policies import POLICIES
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.work import Decision, Granted, Lease, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import RouterError

JUDGED = "least-work"
"""The policy that promises something about the makespan."""

JITTER = 0.03
"""Part of its time by which a piece of work takes longer or shorter than the worker's speed says, at most."""
NOISE = 0.005
TICK_S = 0.25
"""How often the router looks at what waits; here a time unit is the work of an image on a worker of speed 1."""


@dataclass(frozen=True)
class Scenario:
    """A batch that arrives at once.

    speeds: one per worker. costs: draws the work of each piece, in arrival order.
    jobs: whether the pieces create jobs, each of which must be given a worker the moment it comes.
    """

    name: str
    speeds: Sequence[float]
    costs: Callable[[random.Random], list[float]]
    limit: float
    """The makespan over its lower bound that `least-work` must keep."""
    jobs: bool = False


def equal(count: int) -> Callable[[random.Random], list[float]]:
    """Pieces of the same size."""
    return lambda _: [1.0] * count


def mixed(count: int, videos: int, longest: float) -> Callable[[random.Random], list[float]]:
    """Images of 1 and videos of up to `longest` times that, in any order."""

    def draw(rng: random.Random) -> list[float]:
        costs = [rng.uniform(0.3, 1.0) * longest for _ in range(videos)] + [1.0] * (count - videos)
        rng.shuffle(costs)
        return costs

    return draw


SCENARIOS = [
    Scenario("equal work, equal workers", [1.0] * 8, equal(192), 1.05),
    Scenario("equal work, three at half speed", [1.0] * 5 + [0.5] * 3, equal(192), 1.05),
    Scenario("images and videos, equal workers", [1.0] * 8, mixed(192, 48, 20.0), 1.10),
    Scenario("images and long videos, equal workers", [1.0] * 8, mixed(192, 64, 100.0), 1.10),
    Scenario("equal work, 32 workers of four speeds", [1.0, 0.8, 0.5, 0.25] * 8, equal(768), 1.05),
    Scenario("images and videos, three at half speed", [1.0] * 5 + [0.5] * 3, mixed(192, 48, 20.0), 1.10),
    Scenario("video jobs, equal workers", [1.0] * 8, mixed(192, 192, 100.0), 1.10, jobs=True),
    Scenario("video jobs, three at half speed", [1.0] * 5 + [0.5] * 3, mixed(192, 192, 100.0), inf, jobs=True),
]


@dataclass
class Piece:
    """A request of the batch, from its arrival to its end."""

    spec: WorkSpec
    arrived_s: float
    granted_s: float = -1.0
    ended_s: float = -1.0
    lease: Lease | None = None
    run: Run | None = field(default=None, repr=False)

    def granted(self, lease: Lease) -> None:
        self.lease = lease
        assert self.run is not None
        self.granted_s = self.run.now_s
        self.run.begin(self)

    def refused(self, error: RouterError) -> None:
        raise error


class Run:
    """A fleet of simulated workers behind a scheduler."""

    def __init__(self, policy: str, speeds: Sequence[float], *, cap: int = 2, seed: int = 0) -> None:
        self.now_s = 0.0
        self._rng = random.Random(seed)
        pool = Pool()
        limits = SchedulerLimits(QueueLimits(max_requests=100_000), max_concurrency=cap)
        self.scheduler = Scheduler(limits, pool.ledger, random.Random(seed), policy)
        self._speeds: dict[WorkerId, float] = {}
        self._engines: dict[WorkerId, deque[Piece]] = {}
        self._ends: list[tuple[float, int, WorkerId]] = []
        self._count = 0
        for number, speed in enumerate(speeds):
            url = WorkerUrl.parse(f"http://10.0.{number // 250}.{number % 250 + 1}:30000")
            worker_id = WorkerId(str(url))
            pool.handle(ev.WorkerRegistered(url), 0.0)
            incarnation = pool.workers[worker_id].incarnation
            capability = Capability(("T2I", "T2V"), ("m",), learned=True)
            for event in (
                ev.CapabilityLearned(worker_id, incarnation, capability),
                ev.ProbeSucceeded(worker_id, incarnation),
            ):
                pool.handle(event, 0.0)
                self.scheduler.refresh(pool.changed, 0.0)
            self._speeds[worker_id] = speed
            self._engines[worker_id] = deque()

    def batch(self, costs: Sequence[float], *, jobs: bool = False) -> list[Piece]:
        """Submit pieces at the same instant, in order, and play until the last has ended."""
        pieces = []
        for cost in costs:
            spec = WorkSpec(route="rollout", cost_mpx_steps=cost, cost_known=True, creates_job=jobs)
            piece = Piece(spec, self.now_s, run=self)
            pieces.append(piece)
            got = self.scheduler.acquire(spec, piece, self.now_s)
            if isinstance(got, Lease):
                piece.granted(got)
        tick_s = self.now_s + TICK_S
        while any(self._engines.values()):
            if self._ends[0][0] > tick_s:
                self.now_s = tick_s
                tick_s += TICK_S
                self._deliver(self.scheduler.expire(self.now_s))
            else:
                self._end_next()
        assert all(piece.ended_s >= 0 for piece in pieces), "work was left in the queue"
        return pieces

    def begin(self, piece: Piece) -> None:
        """A lease was granted: the piece is in its worker's queue."""
        assert piece.lease is not None
        engine = self._engines[piece.lease.worker.worker_id]
        engine.append(piece)
        if len(engine) == 1:
            self._start(piece)

    def _start(self, piece: Piece) -> None:
        assert piece.lease is not None
        worker_id = piece.lease.worker.worker_id
        seconds = piece.spec.cost_mpx_steps / self._speeds[worker_id] * self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._count += 1
        heapq.heappush(self._ends, (self.now_s + seconds, self._count, worker_id))

    def _end_next(self) -> None:
        self.now_s, _, worker_id = heapq.heappop(self._ends)
        engine = self._engines[worker_id]
        piece = engine.popleft()
        piece.ended_s = self.now_s
        if engine:
            self._start(engine[0])
        assert piece.lease is not None
        piece.lease.done_s = self.now_s
        self._deliver(self.scheduler.release(piece.lease, Result.OK, 200, self.now_s))

    def _deliver(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Granted):
                decision.ticket.waiter.granted(decision.lease)
            else:
                decision.ticket.waiter.refused(decision.error)


def lower_bound(speeds: Sequence[float], costs: Sequence[float]) -> float:
    """Give the time in seconds below which no schedule can be."""
    return max(sum(costs) / sum(speeds), max(costs) / max(speeds))


def measure(policy: str, scenario: Scenario, seed: int, *, cap: int = 2) -> tuple[float, float]:
    """Play two batches one after the other; give each one's makespan over its lower bound."""
    rng = random.Random(seed)
    run = Run(policy, scenario.speeds, cap=cap, seed=seed)
    ratios = []
    for _ in range(2):
        costs = scenario.costs(rng)
        began_s = run.now_s
        pieces = run.batch(costs, jobs=scenario.jobs)
        ratios.append((max(piece.ended_s for piece in pieces) - began_s) / lower_bound(scenario.speeds, costs))
    return ratios[0], ratios[1]


@dataclass(frozen=True)
class Row:
    """What came out: median and worst of the seeds, for the first batch and the second."""

    scenario: str
    policy: str
    first: tuple[float, float]
    second: tuple[float, float]


def play(policy: str, scenario: Scenario, seeds: int, cap: int) -> Row:
    """Measure a policy in a scenario, once for each seed."""
    runs = [measure(policy, scenario, seed, cap=cap) for seed in range(seeds)]
    first, second = ((statistics.median(batch), max(batch)) for batch in zip(*runs, strict=True))
    return Row(scenario.name, policy, first, second)


def faults(rows: Sequence[Row]) -> list[str]:
    """Say where `least-work` is above its limit, or above least-request."""
    found = []
    by_name = {(row.scenario, row.policy): row for row in rows}
    for scenario in SCENARIOS:
        row, plain = (by_name.get((scenario.name, policy)) for policy in (JUDGED, "least-request"))
        if row is not None and max(row.first[0], row.second[0]) > scenario.limit:
            found.append(f"{scenario.name}: {JUDGED} is above {scenario.limit}")
        # The jitter of the last pieces is all that tells policies apart where they do the same.
        if row is not None and plain is not None and row.first[0] > plain.first[0] + NOISE:
            found.append(f"{scenario.name}: {JUDGED} is above least-request")
        if row is not None and plain is not None and row.second[0] > plain.second[0] + NOISE:
            found.append(f"{scenario.name}: {JUDGED} is above least-request in the second batch")
    return found


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--policy", action="append", choices=list(POLICIES))
    parser.add_argument("--scenario", action="append", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--cap", type=int, default=2, help="pieces on a worker at once (2)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[Row] = []
    print(f"{'makespan over lower bound: median (worst)':42} {'first batch':>18} {'second batch':>18}")
    for scenario in SCENARIOS:
        if given.scenario and scenario.name not in given.scenario:
            continue
        print(f"\n{scenario.name}")
        for policy in given.policy or POLICIES:
            row = play(policy, scenario, given.seeds, given.cap)
            rows.append(row)
            cells = (f"{median:9.3f} ({worst:.3f})" for median, worst in (row.first, row.second))
            print(f"  {policy:40} " + " ".join(cells))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    found = faults(rows)
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
