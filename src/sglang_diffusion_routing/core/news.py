"""What is heard of workers, from their probes, their work and their connections, and what that means for them."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatchmethod

from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core import health
from sglang_diffusion_routing.core.health import FATAL, ProbeFailure
from sglang_diffusion_routing.core.mending import Mending
from sglang_diffusion_routing.core.state import COMMANDED, Health, Trigger, WorkerState
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.core.worker import Capability, Watch, Worker


class News(Mending):
    """Workers of which something is heard."""

    @singledispatchmethod
    def _seen(self, event: ev.Seen, worker: Worker, now_s: float) -> None:
        raise TypeError(f"nobody knows what {event!r} means")

    @_seen.register
    def _(self, event: ev.CapabilityLearned, worker: Worker, now_s: float) -> None:
        worker.capability = replace(event.capability, learned=True)
        self._judge(worker)

    @_seen.register
    def _(self, event: ev.ProbeSucceeded, worker: Worker, now_s: float) -> None:
        worker.vitals = health.succeeded(worker.vitals, now_s, self._limits)
        self._watch(worker)
        self._touch(worker)
        if worker.sleep_first:
            self._put_to_sleep_first(worker, now_s)

    def _put_to_sleep_first(self, worker: Worker, now_s: float) -> None:
        if worker.state is WorkerState.SLEEPING:
            self._ask(worker, self._order(Trigger.FOUND_AWAKE, None, None), now_s)
        elif worker.state is WorkerState.ACTIVE:
            fleet_sleeps = self.asleep
            worker.sleep_first = False
            self._touch(worker)
            if fleet_sleeps:
                self._ask(worker, self._order(Trigger.SLEEP, None, None), now_s)

    @_seen.register
    def _(self, event: ev.ProbeFailed, worker: Worker, now_s: float) -> None:
        limits, vitals = self._limits, worker.vitals
        fatal = event.failure in FATAL
        if worker.state is WorkerState.SLEEPING and not fatal:
            worker.vitals = replace(vitals, probe_due_s=now_s + limits.interval_s)
            return
        busy = event.in_flight > 0 or worker.state in COMMANDED
        if event.failure is ProbeFailure.TIMED_OUT and busy:
            excused = health.excused(vitals, now_s, event.answered_s, limits)
            if excused is not None:
                worker.vitals = excused
                return
            fatal = True
        self._note_refusal(worker, event.failure, now_s)
        self._fail(worker, now_s, f"its probe failed: {event.failure.value}", fatal=fatal)

    @_seen.register
    def _(self, event: ev.WorkFailed, worker: Worker, now_s: float) -> None:
        if event.failure is not None:
            self._note_refusal(worker, event.failure, now_s)
            self._fail(worker, now_s, f"its work failed: {event.failure.value}", fatal=event.failure in FATAL)
        if worker.health is not Health.QUARANTINED:
            self._probe_now(worker, now_s)

    def _fail(self, worker: Worker, now_s: float, why: str, *, fatal: bool) -> None:
        worker.vitals = health.failed(worker.vitals, now_s, self._limits)
        self._touch(worker)
        given_up = worker.health is Health.QUARANTINED and (
            not worker.vitals.sticky or worker.vitals.failures >= self._limits.threshold
        )
        if fatal and given_up:
            self._commands.append(do.CancelLeases(worker.worker_id, why))

    @_seen.register
    def _(self, event: ev.WorkKeptFailing, worker: Worker, now_s: float) -> None:
        others = self._routable - {worker.incarnation}
        if others and worker.incarnation in self._routable:
            # Its probes may well succeed (worker health can lie), so it is not asked at once.
            worker.vitals = health.quarantined(worker.vitals, now_s, self._limits.backoff_max_s, self._limits)
            self._touch(worker)

    @_seen.register
    def _(self, event: ev.WorkFoundAsleep, worker: Worker, now_s: float) -> None:
        # Who puts workers to sleep without the router wakes them without it too: it would never hear of that.
        # Work from before the last change says nothing about what the worker does since.
        if not self._hands_off and event.granted_s >= worker.since_s:
            self._happen(worker, Trigger.FOUND_ASLEEP, now_s)

    @_seen.register
    def _(self, event: ev.SentinelOpened, worker: Worker, now_s: float) -> None:
        worker.watch = Watch.STANDS
        if worker.cut:
            worker.cut = False
            self._check_after_cut(worker)
        self._touch(worker)

    @_seen.register
    def _(self, event: ev.SentinelEnded, worker: Worker, now_s: float) -> None:
        worker.watch, worker.doubted_s = Watch.ENDED, now_s
        self._touch(worker)

    @_seen.register
    def _(self, event: ev.SentinelLost, worker: Worker, now_s: float) -> None:
        if worker.watch is not Watch.ENDED:
            worker.doubted_s = now_s
        worker.watch = Watch.NONE
        if event.connections > 0:
            worker.cut = True
            worker.doubted_s = float("-inf")
            if worker.health is not Health.QUARANTINED:
                self._probe_now(worker, now_s)
            self._touch(worker)
            return
        self._perhaps_replaced(worker)
        if worker.health is Health.HEALTHY:
            self._doubt(worker, now_s)
        self._judge(worker)

    def _note_refusal(self, worker: Worker, failure: ProbeFailure, now_s: float) -> None:
        """Take in that nobody listened; with a silent connection, its end will say so if the process is gone."""
        known = worker.vitals.answered or worker.state is WorkerState.SLEEPING
        if failure is ProbeFailure.REFUSED and known and worker.watch is not Watch.STANDS:
            worker.doubted_s = now_s
            self._perhaps_replaced(worker)

    def _perhaps_replaced(self, worker: Worker) -> None:
        """Trust nothing: another process may answer there by now, which would be awake and have no refit."""
        worker.updates += 1
        if worker.loaded is not Unversioned.SUSPECT:
            worker.loaded = Unversioned.UNCHECKED
        worker.sleep_first = worker.sleep_first or worker.state is WorkerState.SLEEPING
        self._renew(worker)
        self._judge(worker)

    @_seen.register
    def _(self, event: ev.WeightsChecked, worker: Worker, now_s: float) -> None:
        if worker.updates != event.updates:
            return
        if worker.loaded is Unversioned.UNCHECKED:
            group = self.ledger.group(worker.weight_group or "")
            if event.matches and group.sequence == event.sequence:
                self._has_target(worker)
        elif not event.matches:
            worker.loaded = Unversioned.SUSPECT
            self._judge(worker)

    @_seen.register
    def _(self, event: ev.WorkerDied, worker: Worker, now_s: float) -> None:
        worker.vitals = health.quarantined(worker.vitals, now_s, self._limits.backoff_first_s, self._limits)
        self._replaced(worker, event.reason)

    @_seen.register
    def _(self, event: ev.WorkerRestarted, worker: Worker, now_s: float) -> None:
        if not worker.vitals.sticky:
            self._doubt(worker, now_s)
        self._replaced(worker, "it was restarted")

    def _replaced(self, worker: Worker, why: str) -> None:
        worker.updates += 1
        worker.loaded, worker.restored = Unversioned.UNCHECKED, False
        self._renew(worker)
        worker.capability = Capability()
        worker.sleep_first = worker.sleep_first or worker.state in {WorkerState.RELEASING, WorkerState.SLEEPING}
        self._commands.append(do.CancelLeases(worker.worker_id, why))
        self._judge(worker)

    @_seen.register
    def _(self, event: ev.WorkerDrained, worker: Worker, now_s: float) -> None:
        # The news may be late: what it drained for was called off, or has begun.
        if worker.state is WorkerState.DRAINING:
            self._happen(worker, Trigger.DRAINED, now_s)

    def _doubt(self, worker: Worker, now_s: float) -> None:
        worker.vitals = health.doubted(worker.vitals, now_s)
        self._commands.append(do.ProbeWorker(worker.worker_id, worker.incarnation))
        self._touch(worker)

    def _probe_now(self, worker: Worker, now_s: float) -> None:
        """Ask for a probe, unless one is due or under way already."""
        if worker.vitals.probe_due_s > now_s:
            worker.vitals = replace(worker.vitals, probe_due_s=now_s)
            self._commands.append(do.ProbeWorker(worker.worker_id, worker.incarnation))
