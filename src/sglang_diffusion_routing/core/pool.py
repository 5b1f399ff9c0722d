"""The workers: events in, commands out. The only writer of a `Worker`."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatchmethod

from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core import health
from sglang_diffusion_routing.core.commands import Command, Outcome
from sglang_diffusion_routing.core.events import Event
from sglang_diffusion_routing.core.health import HealthLimits
from sglang_diffusion_routing.core.news import News
from sglang_diffusion_routing.core.state import Health, Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.core.worker import DRAIN_LIMIT_S, Order, Worker, WorkerId
from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import Conflict, UnknownWorker


class Pool(News):
    """The workers, moved by events."""

    def __init__(
        self,
        limits: HealthLimits | None = None,
        drain_limit_s: float = DRAIN_LIMIT_S,
        *,
        resync: bool = True,
        hands_off: bool = False,
    ) -> None:
        super().__init__(limits, drain_limit_s, resync=resync, hands_off=hands_off)
        self._incarnations = 0

    def takes(self, worker: Worker, refit_id: str | None) -> bool:
        """Tell whether a refit that builds on other weights comes upon these."""
        loaded = worker.loaded
        unknown = loaded in (Unversioned.SUSPECT, Unversioned.OTHER)
        known = not unknown and not (loaded is Unversioned.UNCHECKED and worker.restored)
        return self.ledger.allows(
            worker.weight_group or "", refit_id, loaded, known=known, lora_only=unknown and worker.lora_only
        )

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Take in what happened and say what is to be done.

        Raises:
            UnknownWorker: something was asked of a worker that is not registered.
            Conflict: the worker's state does not allow it; nothing was changed.
        """
        self._begin()
        if isinstance(event, ev.FleetWide):
            self._told(event, now_s)
        else:
            self._of_one(event, now_s)
        self._mend(now_s)
        self._note_holders()
        return self._commands

    def _of_one(self, event: ev.Asked | ev.Seen | ev.Ended, now_s: float) -> None:
        worker = self._workers.get(event.worker_id)
        if isinstance(event, ev.Asked):
            if worker is None:
                raise UnknownWorker(event.worker_id)
            self._asked(event, worker, now_s)
        elif isinstance(event, ev.Ended):
            if worker is not None and worker.command_id == event.command_id:
                self._end(event, worker, now_s)
        elif worker is not None and worker.incarnation == event.incarnation:
            self._seen(event, worker, now_s)

    def tick(self, now_s: float) -> list[Command]:
        """Give up the drains whose limit has passed, mend the workers that are due, and ask for what is not known."""
        self._begin()
        for worker in list(self._workers.values()):
            if worker.drain_deadline_s is not None and worker.drain_deadline_s <= now_s:
                order = worker.order
                self._happen(worker, Trigger.DRAIN_EXPIRED, now_s, "the drain limit has passed")
                if order is not None and order.resync:
                    self._put_off(worker, "the drain limit has passed", now_s)
        self._mend_later(now_s)
        self._ask_around(now_s)
        self._note_holders()
        return self._commands

    # What speaks of no registered worker, or of many.

    @singledispatchmethod
    def _told(self, event: ev.FleetWide, now_s: float) -> None:
        raise TypeError(f"nobody knows what {event!r} means")

    @_told.register
    def _(self, event: ev.RefitOpened, now_s: float) -> None:
        self._open(event)

    @_told.register
    def _(self, event: ev.RefitClosed, now_s: float) -> None:
        self._close(event)

    @_told.register
    def _(self, event: ev.ChecksumsRead, now_s: float) -> None:
        self._keep_checksums(event)

    @_told.register
    def _(self, event: ev.LedgerRestored, now_s: float) -> None:
        self.ledger.restore(event.groups)
        for worker in self._workers.values():
            self._judge(worker)

    @_told.register
    def _(self, event: ev.WorkerRestored, now_s: float) -> None:
        worker = self._take_in(event.url, event.labels, event.max_concurrency, now_s)
        worker.loaded, worker.restored = Unversioned.UNCHECKED, True
        if event.quarantined:
            worker.vitals = health.quarantined_by_operator(worker.vitals)
        if event.asleep:
            # It may have been restarted meanwhile and be awake: it is put to sleep (again) when it answers.
            worker.state = WorkerState.SLEEPING
            worker.sleep_first = True
        elif event.held:
            self._ask(worker, self._order(Trigger.HOLD, None, None), now_s)
        self._commands.append(do.ProbeWorker(worker.worker_id, worker.incarnation))
        self._judge(worker)

    @_told.register
    def _(self, event: ev.WorkerRegistered, now_s: float) -> None:
        worker_id = WorkerId(str(event.url))
        worker = self._workers.get(worker_id)
        if worker is None:
            asleep = self.asleep
            worker = self._take_in(event.url, event.labels, event.max_concurrency, now_s)
            worker.sleep_first = asleep
        elif worker.intent is Intent.REMOVE:
            self._ask(worker, Order(Trigger.WAKE), now_s)
        elif worker.next_order is not None and worker.next_order.trigger is Trigger.REMOVE:
            self._answer(worker, worker.next_order, Outcome.SUPERSEDED)
            worker.next_order = None
        worker.vitals = replace(worker.vitals, probe_due_s=now_s)
        self._commands.append(do.ProbeWorker(worker_id, worker.incarnation))
        self._judge(worker)

    def _take_in(
        self, url: WorkerUrl, labels: tuple[tuple[str, str], ...], max_concurrency: int | None, now_s: float
    ) -> Worker:
        self._incarnations += 1
        worker = Worker(
            WorkerId(str(url)),
            url,
            self._incarnations,
            now_s,
            labels=labels,
            max_concurrency=max_concurrency,
            since_s=now_s,
        )
        worker.loaded = self._left_with.pop(worker.worker_id, Unversioned.BASE)
        self._workers[worker.worker_id] = worker
        return worker

    # What was asked for.

    @singledispatchmethod
    def _asked(self, event: ev.Asked, worker: Worker, now_s: float) -> None:
        raise TypeError(f"nobody knows what {event!r} asks for")

    @_asked.register
    def _(self, event: ev.RemovalRequested, worker: Worker, now_s: float) -> None:
        trigger = Trigger.FORCE_REMOVE if event.force else Trigger.REMOVE
        self._ask(worker, self._order(trigger, event.request, event.drain_limit_s), now_s)

    @_asked.register
    def _(self, event: ev.HoldRequested, worker: Worker, now_s: float) -> None:
        self._ask(worker, self._order(Trigger.HOLD, event.request, event.drain_limit_s), now_s)

    @_asked.register
    def _(self, event: ev.SleepRequested, worker: Worker, now_s: float) -> None:
        self._ask(worker, self._order(Trigger.SLEEP, event.request, event.drain_limit_s), now_s)

    @_asked.register
    def _(self, event: ev.RefitRequested, worker: Worker, now_s: float) -> None:
        if worker.weight_group is None:
            raise Conflict(
                f"{worker.worker_id} has not said yet what it serves, so its weight group is not known",
                worker=worker.worker_id,
                state=worker.state.value,
                asked=Trigger.REFIT.value,
            )
        if not self.takes(worker, event.refit_id):
            raise Conflict(
                f"{worker.worker_id} does not have the weights that this refit builds on",
                worker=worker.worker_id,
                state=worker.state.value,
                asked=Trigger.REFIT.value,
            )
        trigger = Trigger.REFIT_NOW if event.immediate else Trigger.REFIT
        order = self._order(trigger, event.request, event.drain_limit_s)
        self._ask(worker, replace(order, refit_id=event.refit_id, version=event.version), now_s)

    @_asked.register
    def _(self, event: ev.WeightsReported, worker: Worker, now_s: float) -> None:
        self._report(event, worker)

    @_asked.register
    def _(self, event: ev.WakeRequested, worker: Worker, now_s: float) -> None:
        self._ask(worker, self._order(Trigger.WAKE, event.request, None), now_s)
        if worker.state not in {WorkerState.RELEASING, WorkerState.SLEEPING}:
            worker.sleep_first = False
            self._touch(worker)

    @_asked.register
    def _(self, event: ev.QuarantineRequested, worker: Worker, now_s: float) -> None:
        worker.vitals = health.quarantined_by_operator(worker.vitals)
        self._touch(worker)

    @_asked.register
    def _(self, event: ev.QuarantineLifted, worker: Worker, now_s: float) -> None:
        if worker.health is Health.QUARANTINED:
            self._doubt(worker, now_s)

    @_asked.register
    def _(self, event: ev.MaxConcurrencySet, worker: Worker, now_s: float) -> None:
        worker.max_concurrency = event.max_concurrency
        self._touch(worker)

    @_asked.register
    def _(self, event: ev.LabelsSet, worker: Worker, now_s: float) -> None:
        worker.labels = event.labels
        self._judge(worker)

    # How a command ended.

    def _end(self, event: ev.Ended, worker: Worker, now_s: float) -> None:
        """Take in how the command under way has ended; of a refit, what the worker has loaded since."""
        if worker.state is WorkerState.UPDATING and worker.order is not None:
            if worker.updates == worker.updates_begun:
                self._updated(event, worker, worker.order, now_s)
            else:
                # Its process may have been replaced meanwhile: whatever was said may be about another one.
                self._load(worker, Unversioned.SUSPECT, None)
        match event:
            case ev.CommandSucceeded():
                self._happen(worker, Trigger.SUCCEEDED, now_s)
            case ev.CommandRefused(reason=reason):
                self._happen(worker, Trigger.REFUSED, now_s, reason)
            case ev.CommandLost(reason=reason):
                self._happen(worker, Trigger.LOST, now_s, reason)
                if worker.state is WorkerState.SLEEPING:
                    # It may be awake: once it answers, it is put to sleep, as is said of it.
                    worker.sleep_first = True
                    self._touch(worker)

    def _updated(self, event: ev.Ended, worker: Worker, order: Order, now_s: float) -> None:
        match event:
            case ev.CommandSucceeded() if order.resync:
                self._resynced(worker, order)
            case ev.CommandSucceeded() if order.version is not None and self.takes(worker, order.refit_id):
                group, before = worker.weight_group or "", worker.loaded
                self._load(worker, order.version, order.refit_id)
                if self.ledger.may_differ(group, order.refit_id, before):
                    self._commands.append(do.CheckWeights(worker.worker_id, worker.incarnation))
            case ev.CommandRefused(reason=reason, differs=True) if order.resync and order.version is None:
                worker.loaded = Unversioned.OTHER
                self._put_off(worker, reason, now_s)
            case ev.CommandRefused(reason=reason, unchanged=True) if order.resync:
                self._not_brought(worker, order, reason, now_s)
            case ev.CommandRefused(reason=reason) | ev.CommandLost(reason=reason) if order.resync:
                worker.loaded = Unversioned.SUSPECT
                self._put_off(worker, reason, now_s)
            case ev.CommandRefused(unchanged=True):
                pass
            case _:
                lora_only = self.ledger.is_lora(worker.weight_group or "", order.refit_id, worker.loaded)
                self._load(worker, Unversioned.SUSPECT, None)
                worker.lora_only = lora_only
