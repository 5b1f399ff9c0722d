"""A fleet to which anything may happen in any order, held to its promises after every step.

What is promised is worked out here from the workers' records alone, one by one, as the design words it: no index, no
lane, no count of the scheduler's is used to judge the scheduler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.fleet import Asker, Fleet, snapshot, url, worker_id
from core.outside import GroupsSeen, is_kept
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.commands import AnswerRequest, Command
from sglang_diffusion_routing.core.health import HealthLimits, ProbeFailure
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.policies import POLICIES
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.state import COMMANDED, Health, Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.weights import Loaded, Unversioned
from sglang_diffusion_routing.core.work import Decision, Granted, Needs, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, RequestId, Watch, Worker
from sglang_diffusion_routing.errors import (
    Conflict,
    NoCapableWorker,
    NoRoutableWorker,
    QueueFull,
    QueueTimeout,
    RouterError,
    ShuttingDown,
    UnknownWorker,
    WeightsUnmet,
    WorkerUnavailable,
)

NAMES = st.sampled_from("abcd")
CAPABILITIES = st.sampled_from(
    [
        Capability(("T2I",), ("m",), learned=True),
        Capability(("T2I",), ("m", "n"), learned=True),
        Capability(("T2V",), ("v",), learned=True),
        Capability(("T2I", "T2V"), ("m", "v"), learned=True),
        Capability(None, ("m",), learned=True),
    ]
)
SPECS = st.builds(
    WorkSpec,
    needs=st.sampled_from(Needs),
    model=st.sampled_from([None, None, "m", "n", "v", "unheard of"]),
    creates_job=st.sampled_from([False, False, False, True]),
    skips_queue=st.sampled_from([False, False, False, False, True]),
    size_bytes=st.integers(0, 4),
    avoid=st.sampled_from([frozenset(), frozenset(), frozenset(), {"a"}, {"a", "b"}]).map(
        lambda names: frozenset(map(worker_id, names))
    ),
    worker=st.sampled_from([*[None] * 6, "a", "b"]).map(lambda name: None if name is None else worker_id(name)),
    priority=st.sampled_from([0, 0, 0, 4, 9]),
    min_version=st.sampled_from([None, None, None, None, "0", "v1", "v2", "v3", "unheard of"]),
    cost_mpx_steps=st.sampled_from([1.0, 1.0, 2.0, 50.0]),
    cost_known=st.booleans(),
    tenant=st.sampled_from(["", "", "", "x", "y"]),
    group=st.sampled_from(["", "", "", "g", "h"]),
    spread=st.sampled_from([False, False, True]),
).map(lambda spec: replace(spec, spread=spec.spread and bool(spec.group)))
MAX_REQUESTS, MAX_BYTES = 6, 12
LEADS_AWAY = {Trigger.HOLD, Trigger.SLEEP, Trigger.REMOVE}


class FleetMachine(RuleBasedStateMachine):
    """Workers a to d, work of every kind, and everything that may happen to either."""

    def __init__(self) -> None:
        super().__init__()
        self.askers: list[Asker] = []
        self.outstanding: dict[int, Worker] = {}
        self.pending: set[RequestId] = set()
        self.requests = 0
        self.refits = 0
        self.before_rolling: dict[str, Loaded] = {}
        self.raised: dict[str, list[str]] = {}
        self.targets: dict[str, tuple[int, str | None]] = {}
        self.last_met_s: dict[Asker, float] = {}
        self.unmet: set[Asker] = set()
        self.groups = GroupsSeen(self.raised, self.serves)

    @initialize(
        policy=st.sampled_from(list(POLICIES)),
        cap=st.sampled_from([1, 1, 2, 0]),
        capabilities=st.lists(CAPABILITIES, max_size=3),
    )
    def begin(self, policy: str, cap: int, capabilities: list[Capability]) -> None:
        limits = SchedulerLimits(QueueLimits(MAX_REQUESTS, MAX_BYTES), cap, weights={"x": 2.0})
        self.cap = cap
        self.weighs = policy in {"least-work", "longest-first"}
        self.fleet = Fleet(limits, policy, HealthLimits(threshold=2))
        self.fleet.deliver = self.deliver  # type: ignore[method-assign]
        for name, capability in zip("abcd", capabilities, strict=False):
            self.fleet.add(name, capability)

    # What is promised, read off the records.

    def load(self, worker: Worker) -> int:
        """Work on the worker that counts against its cap."""
        leases = [asker.lease for asker in self.askers if asker.lease is not None and asker.lease.live]
        return sum(lease.worker is worker and not lease.spec.skips_queue for lease in leases)

    def cap_of(self, worker: Worker) -> int:
        """0 for none. What a ramp leaves of it is judged where ramps are tested."""
        ramp = self.fleet.scheduler.ramp_of(worker.worker_id)
        return ramp or (self.cap if worker.max_concurrency is None else worker.max_concurrency)

    def has_room(self, worker: Worker) -> bool:
        cap = self.cap_of(worker)
        return cap == 0 or self.load(worker) < cap

    def registered(self) -> list[Worker]:
        return list(self.fleet.pool.workers.values())

    def is_current(self, worker: Worker) -> bool:
        if worker.loaded in (Unversioned.SUSPECT, Unversioned.UNCHECKED, Unversioned.OTHER):
            return False
        ledger = self.fleet.pool.ledger
        if worker.weight_group is None:
            return not any(group.target is not None or group.open for group in ledger.groups.values())
        group = ledger.group(worker.weight_group)
        if group.unproven:
            return False
        if group.open is not None and group.open.mode is not Mode.ROLLING and group.raised_by != group.open.refit_id:
            return False
        if group.target is None:
            return worker.loaded is Unversioned.BASE or not group.sequence
        old = self.before_rolling.get(worker.weight_group)
        return worker.loaded == group.target or (old is not None and worker.loaded == old)

    def is_sound(self, worker: Worker) -> bool:
        return worker.state is WorkerState.ACTIVE and worker.health is Health.HEALTHY and self.stays(worker)

    def stays(self, worker: Worker) -> bool:
        return self.is_current(worker) and not worker.sleep_first and self.is_watched(worker)

    def is_watched(self, worker: Worker) -> bool:
        """Whether a restart would be noticed, or there is nothing yet that it would lose."""
        if worker.watch is Watch.ENDED:
            return False
        return worker.watch is Watch.STANDS or worker.loaded is Unversioned.BASE

    def takes_work(self, worker: Worker) -> bool:
        """Routable; or, while nobody is, of unknown health."""
        if self.is_sound(worker):
            return True
        unknown = worker.state is WorkerState.ACTIVE and worker.health is Health.UNKNOWN and self.stays(worker)
        return unknown and not any(self.is_sound(other) for other in self.registered())

    def sleeps(self, worker: Worker) -> bool:
        asleep = worker.state is WorkerState.SLEEPING and not worker.sleep_first
        return asleep and worker.health is not Health.QUARANTINED

    def comes(self, worker: Worker) -> bool:
        if worker.health is Health.QUARANTINED or worker.sleep_first:
            return False
        waiting = worker.next_order.trigger if worker.next_order is not None else None
        match worker.state:
            case WorkerState.ACTIVE:
                return self.is_current(worker) or worker.mends
            case WorkerState.DRAINING:
                return worker.intent is Intent.REFIT
            case WorkerState.UPDATING:
                return waiting not in LEADS_AWAY
            case WorkerState.RESUMING:
                lasts = self.is_current(worker) or worker.mends or waiting in {Trigger.REFIT, Trigger.REFIT_NOW}
                return waiting not in LEADS_AWAY and lasts
            case WorkerState.RELEASING:
                return waiting is Trigger.WAKE and (self.is_current(worker) or worker.mends)
            case _:
                return False

    def makes(self, worker: Worker, needs: Needs) -> bool:
        tasks = worker.capability.task_types
        if needs is Needs.ANY:
            return True
        if tasks is None:
            return needs is Needs.IMAGE
        return any((task[-2:] == "2I") == (needs is Needs.IMAGE) for task in tasks)

    def can_do(self, worker: Worker, spec: WorkSpec) -> bool:
        if not self.is_admitted(worker, spec) or not self.makes(worker, spec.needs):
            return False
        capable = [other for other in self.registered() if self.makes(other, spec.needs)]
        restricted = any(spec.model in other.capability.models for other in capable)
        return not restricted or spec.model in worker.capability.models

    def is_admitted(self, worker: Worker, spec: WorkSpec) -> bool:
        return worker.worker_id not in spec.avoid and spec.worker in {None, worker.worker_id}

    def may_do(self, worker: Worker, spec: WorkSpec) -> bool:
        unasked = not worker.capability.learned and self.is_admitted(worker, spec)
        return unasked or self.can_do(worker, spec)

    def meets(self, worker: Worker, spec: WorkSpec) -> bool:
        """The worker has the weights that are demanded, or some that its group came to later."""
        self.note_targets()
        has = "0" if worker.loaded is Unversioned.BASE else worker.loaded
        if spec.min_version is None or isinstance(has, Unversioned):
            return spec.min_version is None
        if worker.weight_group is None:
            return spec.min_version == "0"
        order = ["0", *self.raised.get(worker.weight_group, [])]
        latest = {version: place for place, version in enumerate(order)}
        return has in latest and latest[has] >= latest.get(spec.min_version, len(order))

    def note_targets(self) -> None:
        """Write down each version that a group's target has risen to, in order."""
        for name, group in self.fleet.pool.ledger.groups.items():
            raised = self.raised.setdefault(name, [])
            if group.sequence > len(raised):
                raised.append(group.target or "0")
            assert group.sequence == len(raised)

    def is_met_by(self, worker: Worker, spec: WorkSpec) -> bool:
        return self.takes_work(worker) and self.can_do(worker, spec) and self.meets(worker, spec)

    def serves(self, worker: Worker, spec: WorkSpec) -> bool:
        return self.is_met_by(worker, spec) and self.groups.is_new_enough(worker, spec)

    def can_be_granted(self, spec: WorkSpec) -> bool:
        """It could go to a worker now: to the one that its group is kept on, if that can take it at all."""
        tied = self.groups.kept.get(spec.group) if is_kept(spec) else None
        workers = self.registered() if tied is None or not self.serves(tied, spec) else [tied]
        return any(self.serves(worker, spec) and (spec.creates_job or self.has_room(worker)) for worker in workers)

    def has_hope(self, spec: WorkSpec) -> bool:
        return any(self.may_do(worker, spec) and self.comes(worker) for worker in self.registered())

    def is_wrong(self, spec: WorkSpec) -> bool:
        """No registered worker makes this or may yet prove to."""
        able = any(self.makes(w, spec.needs) or not w.capability.learned for w in self.registered())
        return not able and (spec.needs is Needs.VIDEO or bool(self.registered()))

    def refusal_of(self, spec: WorkSpec) -> type[RouterError]:
        """What work is told for which there is no hope, and which is pinned to a registered worker if to any."""
        if spec.worker is None:
            return NoCapableWorker if self.is_wrong(spec) else NoRoutableWorker
        pinned = self.fleet.pool.get(spec.worker)
        able = pinned is not None and self.may_do(pinned, replace(spec, avoid=frozenset()))
        return WorkerUnavailable if able else NoCapableWorker

    def waiting(self) -> list[Asker]:
        return [asker for asker in self.askers if asker.ticket is not None and asker.ticket.waiting]

    # What is decided is judged at once.

    def deliver(self, decisions: Sequence[Decision]) -> None:
        self.note_rolling()
        self.groups.look(self.undecided(), self.takes_work)
        for decision in decisions:
            asker = decision.ticket.waiter
            assert isinstance(asker, Asker)
            assert not asker.answers
            if isinstance(decision, Granted):
                self.judge_order(asker, decision.lease.worker)
                asker.granted(decision.lease)
                self.judge_grant(asker)
            else:
                asker.refused(decision.error)

    def judge_grant(self, asker: Asker) -> None:
        assert asker.lease is not None
        worker, spec = asker.lease.worker, asker.spec
        assert self.can_do(worker, spec)
        if spec.skips_queue:
            awake = any(self.takes_work(other) and self.can_do(other, spec) for other in self.registered())
            assert self.takes_work(worker) if awake else self.sleeps(worker)
            return
        assert self.serves(worker, spec)
        self.judge_place(asker)
        assert not self.fleet.scheduler.paused
        cap = self.cap_of(worker)
        assert spec.creates_job or cap == 0 or self.load(worker) <= cap

    def judge_place(self, asker: Asker) -> None:
        """A kept member is where its group is, and a spread one where fewest of its group have been."""
        assert asker.lease is not None
        worker, spec = asker.lease.worker, asker.spec
        assert self.groups.tied_to(asker) in {None, worker}
        if not spec.group:
            return
        if spec.spread and spec.worker is None:
            had = self.groups.had[spec.group]
            room = [w for w in self.registered() if self.serves(w, spec) and (spec.creates_job or self.has_room(w))]
            assert all(had[worker.worker_id] <= had[other.worker_id] for other in room)
        home = self.groups.kept.get(spec.group)
        follows = home is None or self.can_do(home, replace(spec, avoid=frozenset()))
        self.groups.granted(asker, self.undecided(), follows=follows)

    def undecided(self) -> list[Asker]:
        return [asker for asker in self.askers if asker.ticket is not None and not asker.answers]

    def judge_order(self, asker: Asker, worker: Worker) -> None:
        """Nobody earlier in the queue was passed over for this worker, where the order is that of arrival."""
        assert asker.ticket is not None
        undecided = [other.spec for other in self.undecided()]
        if self.weighs or len({(spec.priority, spec.tenant) for spec in [*undecided, asker.spec]}) > 1:
            return
        for other in self.askers:
            if other.ticket is None or other.answers or not other.ticket.sequence < asker.ticket.sequence:
                continue
            left = other.ticket.waiting is False
            elsewhere = self.groups.tied_to(other) not in {None, worker}
            has_room = other.spec.creates_job or self.has_room(worker)
            assert left or elsewhere or not has_room or not self.serves(worker, other.spec)

    def may_be_held(self, asker: Asker) -> bool:
        """Whether there is a busy worker that may be faster than the one with room."""
        spec = asker.spec
        if spec.group and (spec.spread or self.groups.tied_to(asker) is not None):
            return False
        busy = any(self.serves(worker, spec) and not self.has_room(worker) for worker in self.registered())
        return self.weighs and busy and not spec.creates_job and spec.worker is None

    # Work.

    @rule(specs=st.lists(SPECS, min_size=1, max_size=5))
    def ask(self, specs: list[WorkSpec]) -> None:
        for spec in specs:
            self.ask_for(spec)

    @rule(needs=st.sampled_from(Needs), times=st.integers(2, MAX_REQUESTS + 2))
    def ask_for_much(self, needs: Needs, times: int) -> None:
        for _ in range(times):
            self.ask_for(WorkSpec(needs, deadline_s=self.fleet.now_s + 5.0))

    def ask_for(self, spec: WorkSpec) -> None:
        queued, size = len(self.waiting()), sum(asker.spec.size_bytes for asker in self.waiting())
        self.groups.comes(spec)
        could, hope, refusal = self.can_be_granted(spec), self.has_hope(spec), self.refusal_of(spec)
        full = not spec.avoid and (queued >= MAX_REQUESTS or size + spec.size_bytes > MAX_BYTES)
        asker = self.fleet.acquire(spec)
        self.askers.append(asker)
        self.groups.look_at(asker)
        self.judge_answer(asker, could=could, hope=hope, full=full, refusal=refusal)
        self.fleet.deliver(self.fleet.scheduler.follow_up(self.fleet.now_s))

    def judge_answer(self, asker: Asker, *, could: bool, hope: bool, full: bool, refusal: type[RouterError]) -> None:
        """could, hope, full, refusal: what was to be said of such work before it was asked for."""
        spec, paused = asker.spec, self.fleet.scheduler.paused
        if spec.worker is not None and self.fleet.pool.get(spec.worker) is None:
            assert type(asker.error) is UnknownWorker
            return
        if asker.lease is not None:
            self.judge_grant(asker)
            return
        if spec.skips_queue:
            assert not any(self.can_do(w, spec) and (self.takes_work(w) or self.sleeps(w)) for w in self.registered())
        if spec.skips_queue or (not paused and not hope) or spec.worker in spec.avoid:
            assert type(asker.error) is refusal
        elif full and not self.fleet.scheduler.displaced:
            assert type(asker.error) is QueueFull
        else:
            assert asker.waits
        assert paused or not could or self.may_be_held(asker)

    def running(self) -> list[Asker]:
        return [asker for asker in self.askers if asker.lease is not None and asker.lease.live]

    @precondition(running)
    @rule(data=st.data(), results=st.lists(st.sampled_from(Result), min_size=1, max_size=4))
    def end(self, data: st.DataObject, results: list[Result]) -> None:
        for result in results[: len(self.running())]:
            asker = data.draw(st.sampled_from(self.running()))
            if not asker.spec.skips_queue:
                self.groups.ended(asker, result)
            self.note(self.fleet.end(asker, result))
            with pytest.raises(AssertionError, match="has ended before"):
                self.fleet.end(asker, result)

    @precondition(lambda self: self.registered())
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        """A worker has a job already, however it is."""
        asker = Asker(WorkSpec(creates_job=True), self.fleet.now_s)
        worker = data.draw(st.sampled_from(self.registered()))
        asker.granted(self.fleet.scheduler.adopt(worker, asker.spec, self.fleet.now_s))
        self.askers.append(asker)

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        asker = data.draw(st.sampled_from(self.waiting()))
        assert asker.ticket is not None
        self.fleet.scheduler.abandon(asker.ticket)
        asker.answers += 1

    @rule(after_s=st.sampled_from([1.0, 5.0, 2_000.0]))
    def pass_time(self, after_s: float) -> None:
        for asker in self.waiting():
            if any(self.is_met_by(worker, asker.spec) for worker in self.registered()):
                self.last_met_s[asker] = self.fleet.now_s
        self.note(self.fleet.tick(after_s))
        for asker in self.askers:
            deadline_s = asker.spec.deadline_s
            overdue = deadline_s is not None and deadline_s <= self.fleet.now_s
            assert not (asker.waits and overdue)
            assert not isinstance(asker.error, QueueTimeout) or overdue
            self.judge_wait_for_weights(asker, overdue=overdue)

    def judge_wait_for_weights(self, asker: Asker, *, overdue: bool) -> None:
        """It ends in time, and not before, and not at all for whoever waits for room only."""
        now_s, since_s = self.fleet.now_s, self.last_met_s.get(asker, asker.asked_s)
        met = any(self.is_met_by(worker, asker.spec) for worker in self.registered())
        if asker.waits and met:
            self.last_met_s[asker] = now_s
        elif asker.waits and asker.spec.min_version is not None:
            assert now_s < since_s + QueueLimits().weights_wait_s
        if isinstance(asker.error, WeightsUnmet) and asker not in self.unmet:
            self.unmet.add(asker)
            assert asker.spec.min_version is not None
            assert not met
            assert overdue or now_s >= asker.asked_s + QueueLimits().weights_wait_s

    @rule(what=st.sampled_from(["pause", "pause", "resume", "resume", "drop all"]))
    def gate(self, what: str) -> None:
        scheduler = self.fleet.scheduler
        match what:
            case "pause":
                scheduler.pause()
            case "resume":
                self.fleet.deliver(scheduler.resume(self.fleet.now_s))
            case _:
                self.fleet.deliver(scheduler.drop_all(ShuttingDown()))
                assert not self.waiting()

    # Workers.

    def note(self, commands: list[Command]) -> None:
        """Keep account of remote commands and of whoever waits for the end of what was asked."""
        for command in commands:
            if isinstance(command, do.ReleaseMemory | do.ResumeMemory | do.UpdateWeights | do.ResyncWeights):
                worker = self.fleet.pool.get(command.worker_id)
                assert worker is not None
                assert command.command_id not in self.outstanding
                self.outstanding[command.command_id] = worker
            elif isinstance(command, AnswerRequest):
                self.pending.remove(command.request)

    def apply(self, event: ev.Event) -> None:
        self.note(self.fleet.apply(event))
        self.note_targets()
        self.note_rolling()

    def note_rolling(self) -> None:
        """Write down, as soon as a rolling refit has raised a target, what counts as current beside it."""
        for name, group in self.fleet.pool.ledger.groups.items():
            sequence, target = self.targets.get(name, (0, None))
            refit = group.open
            rolls = refit is not None and refit.mode is Mode.ROLLING and not refit.admit_new
            raised = group.sequence > sequence and target != group.target
            if raised and rolls and refit is not None and group.raised_by == refit.refit_id:
                self.before_rolling[name] = Unversioned.BASE if target is None else target
            self.targets[name] = (group.sequence, group.target)

    @rule(
        name=NAMES,
        what=st.sampled_from(
            ["hold", "refit", "refit", "refit now", "sleep", "wake", "wake", "wake", "remove", "force"]
        ),
        refit=st.integers(1, 3),
    )
    def want(self, name: str, what: str, refit: int) -> None:
        """Ask something of a worker; a refusal changes nothing."""
        self.requests += 1
        who, request = worker_id(name), RequestId(f"r{self.requests}")
        events: dict[str, ev.Event] = {
            "hold": ev.HoldRequested(who, request),
            "refit": ev.RefitRequested(who, f"refit-{refit}", f"v{refit}", request),
            "refit now": ev.RefitRequested(who, f"refit-{refit}", f"v{refit}", request, immediate=True),
            "sleep": ev.SleepRequested(who, request),
            "wake": ev.WakeRequested(who, request),
            "remove": ev.RemovalRequested(who, request=request),
            "force": ev.RemovalRequested(who, force=True, request=request),
        }
        worker = self.fleet.pool.get(who)
        before = None if worker is None else snapshot(worker)
        self.pending.add(request)
        try:
            self.apply(events[what])
        except (Conflict, UnknownWorker):
            self.pending.remove(request)
            assert worker is None or snapshot(worker) == before

    @rule(
        mode=st.sampled_from(Mode),
        kind=st.sampled_from([StepKind.DISK, StepKind.DISK, StepKind.SET_LORA, StepKind.TENSOR]),
        groups=st.sets(st.sampled_from(["m", "v", "g"]), min_size=1),
        version=st.integers(1, 3),
        admit_new=st.booleans(),
    )
    def open_refit(self, mode: Mode, kind: StepKind, groups: set[str], version: int, *, admit_new: bool) -> None:
        """A transaction begins on groups in which none is under way, and asks its workers."""
        ledger = self.fleet.pool.ledger
        groups = {name for name in groups if ledger.group(name).open is None}
        self.refits += 1
        refit_id, name = f"fleet-{self.refits}", f"v{version}"
        step = Step(kind, name, "/refit")
        self.apply(ev.RefitOpened(frozenset(groups), refit_id, name, mode, step, admit_new))
        for worker in self.registered():
            if worker.weight_group in groups and self.refits % 3:
                try:
                    self.apply(ev.RefitRequested(worker.worker_id, refit_id, name, immediate=mode is Mode.IMMEDIATE))
                except Conflict:
                    continue

    @rule(data=st.data())
    def close_refit(self, data: st.DataObject) -> None:
        under_way = {group.open.refit_id for group in self.fleet.pool.ledger.groups.values() if group.open}
        if under_way:
            refit_id = data.draw(st.sampled_from(sorted(under_way)))
            for name, group in self.fleet.pool.ledger.groups.items():
                if group.open is not None and group.open.refit_id == refit_id:
                    self.before_rolling.pop(name, None)
            self.apply(ev.RefitClosed(refit_id))

    @rule(name=NAMES, version=st.sampled_from(["0", "v1", "v2"]))
    def report(self, name: str, version: str) -> None:
        worker = self.fleet.pool.get(worker_id(name))
        group = None if worker is None else worker.weight_group
        if worker is None or group is None or self.fleet.pool.ledger.group(group).open is not None:
            return
        self.refits += 1
        refit_id = f"report-{self.refits}"
        step = Step(StepKind.REPORTED, version, "")
        self.apply(ev.RefitOpened(frozenset({group}), refit_id, version, Mode.IMMEDIATE, step))
        try:
            self.apply(ev.WeightsReported(worker.worker_id, refit_id, version))
        except Conflict:
            assert worker.state is WorkerState.UPDATING
        self.apply(ev.RefitClosed(refit_id))

    @precondition(lambda self: self.registered())
    @rule(data=st.data())
    def read_checksums(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.registered()))
        if worker.weight_group is not None:
            sums = {"transformer": str(worker.loaded)}
            self.apply(ev.ChecksumsRead(worker.weight_group, worker.loaded, sums, worker.worker_id, worker.updates))

    @rule(name=NAMES, max_concurrency=st.sampled_from([None, None, 0, 1, 3]))
    def register(self, name: str, max_concurrency: int | None) -> None:
        self.apply(ev.WorkerRegistered(url(name), (), max_concurrency))

    @rule(name=NAMES, capability=CAPABILITIES, asleep=st.booleans())
    def join(self, name: str, capability: Capability, *, asleep: bool) -> None:
        """A worker is there, says what it makes, and is well; it may go to sleep."""
        self.apply(ev.WorkerRegistered(url(name)))
        incarnation = self.fleet.worker(name).incarnation
        self.apply(ev.CapabilityLearned(worker_id(name), incarnation, capability))
        self.apply(ev.ProbeSucceeded(worker_id(name), incarnation))
        worker = self.fleet.worker(name)
        if asleep and worker.state is WorkerState.ACTIVE:
            self.apply(ev.SleepRequested(worker.worker_id))
            if worker.command_id is not None:
                del self.outstanding[worker.command_id]
                self.apply(ev.CommandSucceeded(worker.worker_id, worker.command_id))

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data(), how=st.sampled_from(["succeeded", "succeeded", "unchanged", "refused", "lost"]))
    def end_command(self, data: st.DataObject, how: str) -> None:
        command_id = data.draw(st.sampled_from(sorted(self.outstanding)))
        worker = self.outstanding.pop(command_id)
        before, late = snapshot(worker), worker.command_id != command_id
        was_updating = worker.state is WorkerState.UPDATING
        match how:
            case "succeeded":
                self.apply(ev.CommandSucceeded(worker.worker_id, command_id))
            case "lost":
                self.apply(ev.CommandLost(worker.worker_id, command_id, "gone"))
            case _:
                unchanged = True if how == "unchanged" else None
                self.apply(ev.CommandRefused(worker.worker_id, command_id, "no", unchanged))
        assert not late or snapshot(worker) == before
        if how == "lost" and not late:
            assert not self.takes_work(worker)
            assert not was_updating or worker.loaded is Unversioned.SUSPECT

    @precondition(lambda self: self.registered())
    @rule(
        data=st.data(),
        what=st.sampled_from(
            [
                "answered",
                "answered",
                "answered",
                "silent",
                "refused",
                "work refused",
                "kept failing",
                "found asleep",
                "cut",
                "sentinel lost",
                "sentinel ended",
                "died",
                "restarted",
                "quarantined",
                "lifted",
                "capped",
                "labelled",
                "differs",
            ]
        ),
    )
    def happen(self, data: st.DataObject, what: str) -> None:
        worker = data.draw(st.sampled_from(self.registered()))
        who, incarnation = worker.worker_id, worker.incarnation
        in_flight = self.fleet.scheduler.in_flight(who)
        cap = data.draw(st.sampled_from([None, 0, 1, 3]))
        events: dict[str, ev.Event] = {
            "answered": ev.ProbeSucceeded(who, incarnation),
            "silent": ev.ProbeFailed(who, incarnation, ProbeFailure.TIMED_OUT, in_flight),
            "refused": ev.ProbeFailed(who, incarnation, ProbeFailure.REFUSED, in_flight),
            "work refused": ev.WorkFailed(who, incarnation, ProbeFailure.REFUSED),
            "kept failing": ev.WorkKeptFailing(who, incarnation),
            "found asleep": ev.WorkFoundAsleep(who, incarnation, self.fleet.now_s),
            "cut": ev.SentinelLost(who, incarnation, 1),
            "sentinel lost": ev.SentinelLost(who, incarnation, 0),
            "sentinel ended": ev.SentinelEnded(who, incarnation),
            "died": ev.WorkerDied(who, incarnation, "killed"),
            "restarted": ev.WorkerRestarted(who, incarnation),
            "quarantined": ev.QuarantineRequested(who),
            "lifted": ev.QuarantineLifted(who),
            "capped": ev.MaxConcurrencySet(who, cap),
            "labelled": ev.LabelsSet(who, (("group", "g"),)),
            "differs": ev.WeightsChecked(who, incarnation, worker.updates, matches=False),
        }
        routable = [other for other in self.registered() if self.is_sound(other)]
        self.apply(events[what])
        if what == "kept failing" and routable == [worker]:
            assert self.is_sound(worker)

    # What holds whatever has happened.

    @invariant()
    def in_flight_equals_live_leases(self) -> None:
        live = [asker.lease for asker in self.askers if asker.lease is not None and asker.lease.live]
        assert self.fleet.scheduler.live_leases == len(live)
        by_worker = Counter(lease.worker.incarnation for lease in live)
        for worker in self.registered():
            assert self.fleet.scheduler.in_flight(worker.worker_id) == by_worker[worker.incarnation]

    @invariant()
    def nobody_waits_while_a_worker_has_room_or_in_vain(self) -> None:
        if self.fleet.scheduler.paused:
            return
        for asker in self.waiting():
            assert not self.can_be_granted(asker.spec) or self.may_be_held(asker)
            assert self.has_hope(asker.spec)

    @invariant()
    def the_queue_is_what_waits_and_is_bounded(self) -> None:
        waiting = self.waiting()
        assert self.fleet.scheduler.queued == len(waiting)
        assert self.fleet.scheduler.queued_bytes == sum(asker.spec.size_bytes for asker in waiting)
        first_turn = [asker.spec for asker in waiting if not asker.spec.avoid]
        assert len(first_turn) <= MAX_REQUESTS
        assert sum(spec.size_bytes for spec in first_turn) <= MAX_BYTES

    @invariant()
    def everybody_is_answered_once(self) -> None:
        for asker in self.askers:
            assert asker.answers == (0 if asker.ticket is not None and asker.ticket.waiting else 1)

    @invariant()
    def a_worker_carries_out_one_command_at_most(self) -> None:
        for worker in self.registered():
            under_way = [command_id for command_id, who in self.outstanding.items() if who is worker]
            assert (worker.command_id is not None) == (worker.state in COMMANDED)
            assert worker.command_id is None or worker.command_id in under_way
            assert (worker.intent is not None) == (worker.state is WorkerState.DRAINING)
            assert worker.next_order is None or worker.state in COMMANDED

    @invariant()
    def a_drain_ends_when_the_work_does(self) -> None:
        for worker in self.registered():
            if worker.state is WorkerState.DRAINING and not self.fleet.scheduler.in_flight(worker.worker_id):
                assert (worker.intent, worker.order, worker.drain_deadline_s) == (Intent.HOLD, None, None)
            elif worker.state is WorkerState.DRAINING and worker.order is not None:
                assert worker.drain_deadline_s is not None
                assert worker.drain_deadline_s > self.fleet.now_s
            else:
                assert worker.drain_deadline_s is None

    @invariant()
    def whoever_asked_is_told_or_still_waits(self) -> None:
        orders = [order for worker in self.registered() for order in (worker.order, worker.next_order) if order]
        attached = Counter(request for order in orders for request in order.requests)
        assert attached == Counter(self.pending)

    @invariant()
    def the_pool_and_the_scheduler_agree_on_who_takes_work(self) -> None:
        for worker in self.registered():
            assert self.fleet.pool.is_routable(worker) == self.takes_work(worker)
            assert worker.weight_version is not None or not self.takes_work(worker)
