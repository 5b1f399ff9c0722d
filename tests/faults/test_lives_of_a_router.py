"""Any history of refits, restarts and removals, a router killed in it, and what the next one makes of the workers.

No sockets: real pool and ledger, and workers that have what they were really given. Whatever the router was told,
nobody serves what is not the group's target, and where the target can be sent, everybody comes to serve it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.fleet import Fleet, url, worker_id
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.core.worker import Standing, Worker, standing
from sglang_diffusion_routing.errors import RouterError

pytestmark = pytest.mark.core

GROUP, NAMES = "m", ("a", "b", "c")
SENT_AGAIN = {StepKind.DISK, StepKind.SET_LORA}

Content = tuple[str, ...]
"""What a process has: its base, then its LoRA, then with which strength that is merged."""
MERGED = "merged as in "


@dataclass
class Life:
    """A fleet, and what its processes really have.

    meant: what each version stands for. pending: commands that nobody has carried out.
    """

    fleet: Fleet = field(default_factory=Fleet)
    has: dict[str, Content] = field(default_factory=dict)
    meant: dict[str, Content] = field(default_factory=dict)
    pending: list[do.Command] = field(default_factory=list)
    open: ev.RefitOpened | None = None
    tells: bool = True

    def do(self, event: ev.Event) -> None:
        self.pending += self.fleet.apply(event)

    def worker(self, command: do.Command) -> Worker | None:
        return self.fleet.pool.get(command.worker_id) if not isinstance(command, do.AnswerRequest) else None

    def carry_out(self) -> None:
        """Do what the pool wants done, honestly, until it wants nothing more."""
        for _ in range(200):
            if not self.pending:
                return
            command = self.pending.pop(0)
            worker = self.worker(command)
            if worker is None:
                continue
            match command:
                case do.UpdateWeights(_, command_id) if self.open is not None:
                    self.load(worker, self.open.step)
                    self.do(ev.CommandSucceeded(worker.worker_id, command_id))
                    self.say(worker)
                case do.ResyncWeights(_, command_id):
                    self.resync(worker, command_id)
                case do.LearnChecksums():
                    self.say(worker)
                case do.CheckWeights():
                    group = self.fleet.pool.ledger.group(GROUP)
                    unchecked = worker.loaded is Unversioned.UNCHECKED
                    expected = self.fleet.pool.ledger.expected(GROUP, group.wanted if unchecked else worker.loaded)
                    if expected is not None:
                        facts = (worker.worker_id, worker.incarnation, worker.updates)
                        self.do(ev.WeightsChecked(*facts, self.sums(worker) == expected, group.sequence))
        raise AssertionError(f"it never ends: {self.pending}")

    def load(self, worker: Worker, step: Step) -> None:
        name = worker.url.host
        base, *_ = self.has[name]
        match step.kind:
            case StepKind.SET_LORA:
                self.has[name] = (base, step.version)
            case StepKind.MERGE_LORA:
                # A merge takes the place of the one before it.
                unmerged = [part for part in self.has[name] if not part.startswith(MERGED)]
                self.has[name] = (*unmerged, f"{MERGED}{step.version}")
            case _:
                self.has[name] = (step.version,)
        self.meant.setdefault(step.version, self.has[name])

    def sums(self, worker: Worker) -> dict[str, str]:
        return {"transformer": repr(self.has[worker.url.host])}

    def say(self, worker: Worker) -> None:
        if self.tells:
            self.do(ev.ChecksumsRead(GROUP, worker.loaded, self.sums(worker), worker.worker_id, worker.updates))

    def resync(self, worker: Worker, command_id: int) -> None:
        """What control/resync.py does."""
        plan = self.fleet.pool.resync_plan(worker)
        expected = plan.expected if self.tells else None
        if plan.version is None:
            matches = expected is None or expected == self.sums(worker)
            refused = ev.CommandRefused(worker.worker_id, command_id, "differs", unchanged=True, differs=True)
            self.do(ev.CommandSucceeded(worker.worker_id, command_id) if matches else refused)
            return
        if expected != self.sums(worker):
            if not plan.steps:
                self.do(ev.CommandRefused(worker.worker_id, command_id, plan.obstacle, unchanged=True))
                return
            for step in plan.steps:
                self.load(worker, step)
            if expected not in (None, self.sums(worker)):
                self.do(ev.CommandRefused(worker.worker_id, command_id, "still differs"))
                return
        self.do(ev.CommandSucceeded(worker.worker_id, command_id))
        self.say(worker)

    # What happens.

    def join(self, name: str) -> None:
        self.has.setdefault(name, ("base",))
        self.do(ev.WorkerRegistered(url(name)))
        self.appear(name)

    def appear(self, name: str) -> None:
        self.fleet.learn(name)
        self.pending += self.fleet.answer(name)

    def restart(self, name: str) -> None:
        if (worker := self.fleet.pool.get(worker_id(name))) is not None:
            self.has[name] = ("base",)
            self.do(ev.WorkerRestarted(worker.worker_id, worker.incarnation))
            self.appear(name)

    def begin(self, number: int, kind: StepKind, names: frozenset[str]) -> None:
        version = f"v{number}"
        step = Step(kind, version, f"/{kind.value}", self_contained=kind is not StepKind.MERGE_LORA)
        self.open = ev.RefitOpened(frozenset({GROUP}), f"refit-{number}", version, Mode.DRAIN, step)
        self.do(self.open)
        self.ask(names)

    def ask(self, names: frozenset[str]) -> None:
        assert self.open is not None
        for name in sorted(names):
            try:
                self.do(ev.RefitRequested(worker_id(name), self.open.refit_id, self.open.version))
            except RouterError:
                continue

    def end(self) -> None:
        if self.open is not None:
            self.do(ev.RefitClosed(self.open.refit_id))
            self.open = None

    def next(self, reached: frozenset[str]) -> Life:
        """Kill the router and start it again; the commands for `reached` were carried out all the same."""
        for command in self.pending:
            worker = self.worker(command)
            if worker is None or self.open is None or worker.url.host not in reached:
                continue
            if isinstance(command, do.UpdateWeights):
                self.load(worker, self.open.step)
        after = Life(has=dict(self.has), meant=self.meant, open=self.open)
        after.do(ev.LedgerRestored(copy.deepcopy(dict(self.fleet.pool.ledger.groups))))
        for worker in self.fleet.pool.workers.values():
            after.do(ev.WorkerRestored(worker.url))
        return after

    def go_on(self) -> None:
        """What control/resume.py does with the refit that was under way, once the workers have answered."""
        names = [worker.url.host for worker in self.fleet.pool.workers.values()]
        opened = self.open
        if opened is not None:
            self.do(ev.RefitOpened(**{**_fields(opened), "dormant": True}))
            if opened.step.kind not in SENT_AGAIN:
                self.end()
        for name in names:
            self.appear(name)
        self.carry_out()
        if self.open is not None:
            takes = [n for n in names if self.fleet.pool.takes(self.fleet.worker(n), self.open.refit_id)]
            if takes:
                self.do(self.open)
                self.ask(frozenset(takes))
                self.carry_out()
            self.end()
        for _ in range(8):
            self.carry_out()
            self.pending += self.fleet.tick(300.0)
        self.carry_out()


def _fields(opened: ev.RefitOpened) -> dict[str, object]:
    return {name: getattr(opened, name) for name in ("groups", "refit_id", "version", "mode", "step", "admit_new")}


names = st.frozensets(st.sampled_from(NAMES))
deeds = st.one_of(
    st.tuples(
        st.just("refit"),
        st.sampled_from([StepKind.DISK, StepKind.DISK, StepKind.SET_LORA, StepKind.TENSOR, StepKind.MERGE_LORA]),
        names.filter(bool),
        st.booleans(),
    ),
    st.tuples(st.just("restart"), st.sampled_from(NAMES)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES)),
    st.tuples(st.just("join"), st.sampled_from(NAMES)),
    st.tuples(st.just("kill"), names),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(deeds, min_size=1, max_size=12), names, st.booleans())
def test_nobody_serves_other_weights_and_who_can_be_brought_back_is(
    history: list[tuple[Any, ...]], reached: frozenset[str], in_the_middle: bool
) -> None:
    life = Life()
    for name in NAMES:
        life.join(name)
    life.carry_out()
    for number, (what, *facts) in enumerate(history):
        life = live(life, number, what, facts, to_its_end=not in_the_middle or number < len(history) - 1)
    life = life.next(reached)
    life.go_on()
    judge(life)


def live(life: Life, number: int, what: str, facts: list[Any], *, to_its_end: bool) -> Life:
    """Have one thing happen; the last one may be cut in its middle."""
    match what, *facts:
        case "refit", kind, chosen, tells:
            life.tells = tells
            life.begin(number, kind, chosen)
            if not to_its_end:
                return life
            life.carry_out()
            life.end()
        case "restart", name:
            life.restart(name)
        case "remove", name if life.fleet.pool.get(worker_id(name)) is not None:
            life.do(ev.RemovalRequested(worker_id(name), force=True))
        case "join", name if life.fleet.pool.get(worker_id(name)) is None:
            # Another process than the one that was removed.
            life.has[name] = ("base",)
            life.join(name)
        case "kill", lost:
            life = life.next(lost)
            life.go_on()
            judge(life)
    if to_its_end:
        life.carry_out()
    return life


def judge(life: Life) -> None:
    """Hold what everybody has against what the fleet should have."""
    pool, group = life.fleet.pool, life.fleet.pool.ledger.group(GROUP)
    wanted = ("base",) if group.target is None else life.meant[group.target]
    serving = [worker for worker in pool.workers.values() if standing(worker) is Standing.ROUTABLE]
    assert {life.has[worker.url.host] for worker in serving} <= {wanted}
    if group.target is not None and group.recipe.steps[0].kind is StepKind.DISK and group.recipe.obstacle is None:
        assert len(serving) == len(pool.workers), [worker.weights_reason for worker in pool.workers.values()]
