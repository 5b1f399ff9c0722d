"""Work in, leases out: late binding of waiting work to routable workers."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.matching import Matching
from sglang_diffusion_routing.core.policies import DEFAULT_POLICY, Chance
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.waiting import Waiting
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.work import (
    Decision,
    Granted,
    Lease,
    LineKey,
    Refused,
    Result,
    Ticket,
    Waiter,
    WorkSpec,
)
from sglang_diffusion_routing.core.worker import Standing, Worker, WorkerId
from sglang_diffusion_routing.errors import UnknownWorker

_SERVER_ERROR = Result.SERVER_ERROR
"""An enum's member costs 0.1 microseconds each time it is looked up by its class (Python 3.11)."""


class Scheduler(Waiting):
    """Queue and workers. Nothing waits while a worker has room for it, and what waits in vain is refused.

    A call that may end somebody's waiting returns these decisions; the caller delivers each to its waiter.
    """

    def __init__(self, limits: SchedulerLimits, ledger: Ledger, rng: Chance, policy: str = DEFAULT_POLICY) -> None:
        super().__init__(limits, ledger, rng, policy)
        self._matching = Matching(self._demands, self._ties)
        self._lease_ids = 0
        self.live_leases = 0
        self.paused = False
        # Whether a worker has been removed since all that waits was last ranked.
        self._removed = False

    # The way of a request.

    def acquire(self, spec: WorkSpec, waiter: Waiter, now_s: float) -> Lease | Ticket:
        """Give a lease if a worker has room, else a place in the queue.

        Raises:
            UnknownWorker: it is pinned to a worker that is not registered.
            WorkerUnavailable: it is pinned to a worker that is absent, asleep, quarantined, drained or stale.
            NoCapableWorker: no registered worker makes this, or may yet prove to.
            NoRoutableWorker: those that do are all absent, asleep, quarantined, drained, stale or to be avoided.
            QueueFull: it would have to wait, and there is no room.
        """
        lane = self._lanes.find(spec.needs, spec.model)
        if spec.worker is not None:
            self._check_pin(lane, spec, spec.worker)
        if spec.skips_queue:
            return self._lease_past_queue(lane, spec, now_s)
        if spec.worker is None and spec.min_version is None and not spec.group and not spec.digest:
            key, avoid, cost = None, spec.avoid, spec.cost_mpx_steps
            station = None if self.paused else lane.choose(avoid, creates_job=spec.creates_job, cost=cost, now_s=now_s)
        else:
            key = self._ties.key_of(lane, spec, now_s)
            station = None if self.paused else self._matching.station_for(lane, spec, key, now_s)
        if station is not None:
            may_wait = lane.full.size and lane.weighs and self._queue.met(spec) is None
            if not may_wait or self._matching.is_worth(lane, station, spec, key, now_s):
                if lane.lines.count:
                    lane.lines.passed_by(spec.tenant, spec)
                return self._grant(station, spec, now_s, 0.0)
        elif not self.paused and not self._prospects.has_hope(lane, LineKey.of(spec) if key is None else key):
            raise self._prospects.in_vain(lane, spec)
        return self._wait(lane, spec, key, waiter, now_s)

    def adopt(self, worker: Worker, spec: WorkSpec, now_s: float) -> Lease:
        """Give a lease for work that is on the worker already, whatever its standing and its cap.

        Raises:
            KeyError: there is no such worker.
        """
        return self._grant(self._by_worker[worker], spec, now_s, 0.0)

    def release(self, lease: Lease, result: Result, status: int, now_s: float) -> list[Decision]:
        """End a lease, once, and give its room to work that waits.

        Args:
            status: of the worker's reply, 0 when there was none.

        Raises:
            AssertionError: the lease has ended before.
        """
        if not lease.live:
            raise AssertionError(f"lease {lease.lease_id} on {lease.worker.worker_id} has ended before")
        lease.live = False
        lease.ended_s = now_s
        self.live_leases -= 1
        station = self._by_worker[lease.worker]
        spec = lease.spec
        station.ended[spec.route][result] += 1
        counts = not spec.skips_queue
        if result <= _SERVER_ERROR:
            station.answered_s = now_s
            if counts:
                self._experience.learn(station, lease, status, now_s)
        station.drop(lease)
        if spec.group and counts:
            self._ties.ended(lease, result, now_s)
        if counts and station.open:
            for lane in station.lanes:
                lane.shrank(station)
            if station.ramp is not None:
                self._stations.ended(station, lease, result, status)
            if self._queue.count:
                return self._dispatch(station.lanes, now_s, station)
        if station.gone and not station.leases:
            self._stations.forget(station)
        return self.follow_up(now_s) if spec.group else []

    def _check_pin(self, lane: Lane, spec: WorkSpec, worker_id: WorkerId) -> None:
        station = self._by_id.get(worker_id)
        if station is None or station.gone:
            raise UnknownWorker(worker_id)
        if worker_id in spec.avoid:
            raise self._prospects.in_vain(lane, spec)

    def _lease_past_queue(self, lane: Lane, spec: WorkSpec, now_s: float) -> Lease:
        station: Station | None
        if spec.worker is None:
            station = lane.least(spec.avoid) or lane.sleeper(spec.avoid)
        else:
            pinned = self._by_id[spec.worker]
            answers = lane in pinned.lanes and (pinned.open or pinned.standing is Standing.ASLEEP)
            station = pinned if answers else None
        if station is None:
            raise self._prospects.in_vain(lane, spec)
        for other in station.lanes:
            other.turn(station)
        return self._grant(station, spec, now_s, 0.0)

    def _grant(self, station: Station, spec: WorkSpec, now_s: float, queued_s: float) -> Lease:
        self._lease_ids += 1
        lease = Lease(self._lease_ids, station.worker, spec, now_s, queued_s)
        self.live_leases += 1
        station.take(lease)
        if not spec.skips_queue:
            if station.open:
                for lane in station.lanes:
                    lane.grew(station)
            if spec.group:
                self._ties.granted(lease, now_s)
        return lease

    # What ends waiting.

    def refresh(self, workers: Iterable[Worker], now_s: float) -> list[Decision]:
        """Take in what an event has changed about workers, registration and removal included.

        All that it changed comes at once: work must not go to one that another's change makes a candidate, and that
        the same event has changed as well.
        """
        self._lanes.touched()
        self._demands.forget()
        change = self._stations.refresh(workers)
        self.model_matters = self._lanes.models_differ
        if not change.moved and not self._queue.has_demands:
            # Else a worker may have come to have other weights and go on as if nothing were.
            return []
        self._ties.refresh()
        self._removed |= change.removed
        return self._settle_what_is_ranked(now_s)

    @property
    def unranked(self) -> int:
        """How much of what waits may have another first worker by now; to be ranked by `rank_on`."""
        return len(self._ties.unranked)

    def rank_on(self, now_s: float) -> list[Decision]:
        """Rank some more; to be called until nothing is unranked, with others having their turn in between."""
        self._ties.rank()
        return self._settle_what_is_ranked(now_s)

    def _settle_what_is_ranked(self, now_s: float) -> list[Decision]:
        removed = self._removed
        self._removed = removed and bool(self._ties.unranked)
        return self._settle(now_s, removed=removed)

    def expire(self, now_s: float) -> list[Decision]:
        """Refuse what has waited to its deadline, or for weights that no worker has come to have.

        What was held back for a faster worker is looked at again, for time has passed.
        """
        decisions: list[Decision] = []
        for ticket in self._queue.due(now_s):
            lane = self._lanes.find(ticket.spec.needs, ticket.spec.model)
            error = self._prospects.overdue(lane, ticket, now_s)
            if error is None:
                self._queue.remind(ticket, now_s)
            else:
                self._step_out(ticket)
                decisions.append(Refused(ticket, error))
        held = [lane for lane in self._lanes.all if lane.weighs and lane.lines.shared and lane.free.size]
        return decisions + self._dispatch(held, now_s) if held else decisions

    def pause(self) -> None:
        """Let work wait, whatever the workers do; none is refused while there is room."""
        self.paused = True

    def resume(self, now_s: float) -> list[Decision]:
        """Let work go on."""
        self.paused = False
        return self._settle(now_s, removed=False)

    def follow_up(self, now_s: float) -> list[Decision]:
        """Grant what has come to wait for something else since, and tell who was displaced.

        To be called after each `acquire` for a group, and after each that has displaced anybody.
        """
        displaced, self.displaced = self.displaced, []
        return displaced + self._dispatch((), now_s) if self._ties.stirred else displaced

    def _settle(self, now_s: float, *, removed: bool) -> list[Decision]:
        if self.paused or not self._queue.count:
            return []
        lanes = tuple(self._lanes.all)
        return self._refuse_hopeless(lanes, removed=removed) + self._dispatch(lanes, now_s)

    def _dispatch(self, lanes: Collection[Lane], now_s: float, freed: Station | None = None) -> list[Decision]:
        """Grant what these lanes can.

        Args:
            freed: the one station that has come to have room, so that nothing waits for any other.
        """
        decisions: list[Decision] = []
        while not self.paused:
            if self._ties.stirred:
                # What was tied may now be for workers that have had room all the time.
                self._ties.stirred.clear()
                freed, lanes = None, tuple(self._lanes.all)
            for ticket, lane, station, in_turn in self._matching.matches(lanes, freed, now_s):
                lane.lines.grant(ticket, in_turn=in_turn)
                for other in station.lanes:
                    if other is not lane:
                        other.lines.passed_by(ticket.key.tenant, ticket.spec)
                self._left(ticket)
                lease = self._grant(station, ticket.spec, now_s, now_s - ticket.enqueued_s)
                decisions.append(Granted(ticket, lease))
            if freed is not None:
                # What has come to be tied to this one was looked at.
                self._ties.stirred.discard(freed.worker.worker_id)
            if not self._ties.stirred:
                break
        return decisions
