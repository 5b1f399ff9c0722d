"""Groups on a small fleet whose workers come, go and are refit one by one, judged as the whole machine judges."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.fleet import T2I, Asker, worker_id
from core.machine import FleetMachine
from core.outside import FAILED
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.policies import POLICIES
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.work import Result, WorkSpec
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import Conflict

NAMES = st.sampled_from("abc")
ENDINGS = st.sampled_from([*[Result.OK] * 4, Result.SERVER_ERROR, Result.ABANDONED, *sorted(FAILED)])


class GroupMachine(RuleBasedStateMachine):
    """Two groups, kept and spread, on workers a to c."""

    def __init__(self) -> None:
        super().__init__()
        self.its = FleetMachine()
        self.refits = 0

    @initialize(policy=st.sampled_from(list(POLICIES)), cap=st.sampled_from([1, 2, 2, 0]))
    def begin(self, policy: str, cap: int) -> None:
        self.its.begin(policy, cap, [T2I, T2I, T2I])

    @rule(
        group=st.sampled_from("ggh"),
        spread=st.sampled_from([False, False, True]),
        job=st.sampled_from([False, False, False, True]),
        priority=st.sampled_from([0, 0, 0, 4]),
        times=st.integers(1, 3),
    )
    def ask(self, group: str, times: int, priority: int, *, spread: bool, job: bool) -> None:
        for _ in range(times):
            self.its.ask_for(WorkSpec(group=group, spread=spread, creates_job=job, priority=priority))

    @rule(worker=st.sampled_from([None, "a", "b"]), version=st.sampled_from([None, None, "0"]))
    def ask_otherwise(self, worker: str | None, version: str | None) -> None:
        self.its.ask_for(WorkSpec(worker=None if worker is None else worker_id(worker), min_version=version, group="g"))
        self.its.ask_for(WorkSpec())

    def running(self) -> list[Asker]:
        return self.its.running()

    @precondition(running)
    @rule(data=st.data(), result=ENDINGS, again=st.booleans())
    def end(self, data: st.DataObject, result: Result, *, again: bool) -> None:
        asker = data.draw(st.sampled_from(self.running()))
        assert asker.lease is not None
        self.its.groups.ended(asker, result)
        self.its.note(self.its.fleet.end(asker, result))
        if again and result not in {Result.OK, Result.ABANDONED} and asker.spec.worker is None:
            failed = asker.spec.avoid | {asker.lease.worker.worker_id}
            spec = WorkSpec(group=asker.spec.group, spread=asker.spec.spread, avoid=failed)
            self.its.ask_for(spec)

    @precondition(running)
    @rule()
    def end_all(self) -> None:
        for asker in self.running():
            self.its.groups.ended(asker, Result.OK)
            self.its.note(self.its.fleet.end(asker))

    @precondition(lambda self: self.its.waiting())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.its.leave(data)

    def worker(self, name: str) -> Worker | None:
        return self.its.fleet.pool.get(worker_id(name))

    @rule(version=st.sampled_from(["v1", "v2"]), mode=st.sampled_from([Mode.ROLLING, Mode.ROLLING, Mode.DRAIN]))
    def open_refit(self, version: str, mode: Mode) -> None:
        if self.its.fleet.pool.ledger.group("m").open is None:
            self.refits += 1
            step = Step(StepKind.DISK, version, "/update_weights_from_disk")
            refit_id = f"refit-{self.refits}"
            self.its.apply(ev.RefitOpened(frozenset({"m"}), refit_id, version, mode, step, bool(self.refits % 2)))

    @rule(name=NAMES)
    def load(self, name: str) -> None:
        refit = self.its.fleet.pool.ledger.group("m").open
        if refit is None or self.worker(name) is None:
            return
        try:
            self.its.apply(ev.RefitRequested(worker_id(name), refit.refit_id, refit.version))
        except Conflict:
            return

    @rule(names=st.sets(NAMES, min_size=1))
    def succeed(self, names: set[str]) -> None:
        for worker in [self.worker(name) for name in sorted(names)]:
            if worker is not None and worker.command_id is not None:
                del self.its.outstanding[worker.command_id]
                self.its.apply(ev.CommandSucceeded(worker.worker_id, worker.command_id))

    @rule(names=st.permutations("abc"))
    def roll_on(self, names: list[str]) -> None:
        """One more idle worker loads what the others are to load too."""
        self.open_refit("v1" if self.refits % 3 else "v2", Mode.ROLLING)
        for name in names:
            worker = self.worker(name)
            if worker is not None and worker.state is WorkerState.ACTIVE and not self.its.load(worker):
                self.load(name)
                self.succeed({name})
                return

    @rule()
    def close_refit(self) -> None:
        refit = self.its.fleet.pool.ledger.group("m").open
        if refit is not None:
            self.its.before_rolling.pop("m", None)
            self.its.apply(ev.RefitClosed(refit.refit_id))

    @rule(name=NAMES, what=st.sampled_from(["hold", "sleep", "wake", "quarantine", "lift", "force", "label"]))
    def happen(self, name: str, what: str) -> None:
        who = worker_id(name)
        events: dict[str, ev.Event] = {
            "hold": ev.HoldRequested(who),
            "sleep": ev.SleepRequested(who),
            "wake": ev.WakeRequested(who),
            "quarantine": ev.QuarantineRequested(who),
            "lift": ev.QuarantineLifted(who),
            "force": ev.RemovalRequested(who, force=True),
            "label": ev.LabelsSet(who, (("group", "m" if self.refits % 2 else "other"),)),
        }
        worker = self.worker(name)
        if worker is None:
            return
        try:
            self.its.apply(events[what])
        except Conflict:
            return

    @rule(name=NAMES)
    def recover(self, name: str) -> None:
        """It is there, and well; what it was told before is over."""
        self.its.join(name, T2I, asleep=False)
        worker = self.worker(name)
        assert worker is not None
        if worker.state is WorkerState.DRAINING and worker.order is None:
            self.its.apply(ev.WakeRequested(worker.worker_id))

    @rule(pause=st.booleans())
    def gate(self, *, pause: bool) -> None:
        self.its.gate("pause" if pause else "resume")
        self.its.gate("resume")

    @invariant()
    def all_that_is_promised_holds(self) -> None:
        if hasattr(self.its, "fleet"):
            self.its.in_flight_equals_live_leases()
            self.its.nobody_waits_while_a_worker_has_room_or_in_vain()
            self.its.the_queue_is_what_waits_and_is_bounded()
            self.its.everybody_is_answered_once()
