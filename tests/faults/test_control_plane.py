"""Sleep, wake, refits, quarantine, removal and registration race each other, and processes die under them.

The whole control plane runs as it is, on a clock that jumps, in front of workers of which the truth is known. Whatever
was asked for in whatever order: no lease on a worker that sleeps or is not current, no sample on other weights than the
router says, every command ends once, everybody is answered; when nothing is in flight the router's picture is the
truth; and the fleet comes back by a wake and a refit, whatever has happened to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sglang_diffusion_routing.control.membership import Wanted
from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.core.events import QuarantineLifted, QuarantineRequested
from sglang_diffusion_routing.core.refit import Mode, StepKind
from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.weights import Currency
from sglang_diffusion_routing.core.worker import Watch, Worker
from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.schemas import UpdateWorker
from support.control_plane import Plane, all_good
from support.simulated import CHECKSUM, DISK, RELEASE, RESUME, TENSOR, SimulatedWorker
from support.virtual_time import VirtualLoop

pytestmark = pytest.mark.core

T = TypeVar("T")
NAMES = tuple(f"http://127.0.0.1:{port}" for port in (1, 2, 3, 4))
SETTLED_S = 2_000.0
"""Longer than any wait of the router's own: drains, calls, probes and resyncs that are put off."""

START_S = 1.0
"""A process takes longer to load its model than the news of its predecessor's end takes to come."""

ONE = st.sampled_from(NAMES)
SOME = st.sets(ONE, min_size=1).map(sorted)
PAUSES = st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.03, 0.3, 5.0])
PACES = st.sampled_from(
    [Pace(), Pace(), Pace(Mode.ROLLING, 1), Pace(Mode.ROLLING, 2, admit_new=True), Pace(Mode.IMMEDIATE)]
)
SPOILT = st.sampled_from(
    [
        *((path, fault) for path in (RELEASE, RESUME) for fault in ("refuse", "drop", "lose")),
        *((path, fault) for path in (DISK, TENSOR) for fault in ("refuse", "tear", "drop", "lose")),
        (CHECKSUM, "drop"),
    ]
)


class ControlPlane(RuleBasedStateMachine):
    """Up to four workers, and all that a trainer, an operator and fate may do to them."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = contextlib.ExitStack()
        self.logged = self.logs.enter_context(structlog.testing.capture_logs())
        self.loop = VirtualLoop()
        self.sims = {name: SimulatedWorker(name) for name in NAMES}
        self.versions = 0

    @initialize(names=SOME, seed=st.integers(0, 3))
    def begin(self, names: list[str], seed: int) -> None:
        async def made() -> Plane:
            return Plane(self.sims, seed)

        self.plane = self.run(made())
        self.run(self.plane.membership.register(*map(Wanted, names)))

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(doing)

    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def act(self, doing: Coroutine[Any, Any, Any], name: str, pause_s: float) -> None:
        """Begin something and do not wait for its end."""

        async def begin() -> None:
            self.plane.call(doing, name)
            await asyncio.sleep(pause_s)

        self.run(begin())
        assert not self.plane.wrongs, self.plane.wrongs

    def registered(self) -> list[Worker]:
        return list(self.plane.fleet.pool.workers.values())

    # The trainer.

    @rule(names=SOME, pause_s=PAUSES)
    def release(self, names: list[str], pause_s: float) -> None:
        self.act(self.plane.memory.release(self.plane.registered(names)), "release", pause_s)

    @rule(names=SOME, pause_s=PAUSES)
    def resume(self, names: list[str], pause_s: float) -> None:
        self.act(self.plane.memory.resume(self.plane.registered(names)), "resume", pause_s)

    @rule(pace=PACES, back=st.sampled_from([0, 0, 1]), pause_s=PAUSES)
    def refit(self, pace: Pace, back: int, pause_s: float) -> None:
        """Load new weights, or those before."""
        self.versions += 1
        self.act(self.plane.refit(f"v{max(1, self.versions - 2 * back)}", pace), "refit", pause_s)

    @rule(pace=PACES, pause_s=PAUSES)
    def refit_from_tensors(self, pace: Pace, pause_s: float) -> None:
        """Load weights that cannot be sent again."""
        self.versions += 1
        self.act(self.plane.refit(f"v{self.versions}", pace, StepKind.TENSOR), "refit from tensors", pause_s)

    @rule(count=st.integers(1, 6), seconds=st.sampled_from([0.01, 0.5, 8.0]), pause_s=PAUSES)
    def work(self, count: int, seconds: float, pause_s: float) -> None:
        async def begin() -> None:
            for _ in range(count):
                self.plane.work(seconds)

        self.act(begin(), "work", pause_s)

    @rule(name=ONE)
    def sleep_behind_the_routers_back(self, name: str) -> None:
        sim = self.sims[name]
        if sim.process is not None and not sim.process.turn.locked():
            sim.process.asleep = sim.unsure = True

    # The operator.

    @rule(names=SOME, pause_s=PAUSES)
    def register(self, names: list[str], pause_s: float) -> None:
        self.act(self.plane.membership.register(*map(Wanted, names)), "register", pause_s)

    @rule(names=SOME, force=st.booleans(), pause_s=PAUSES)
    def swap(self, names: list[str], force: bool, pause_s: float) -> None:
        self.act(self.plane.membership.swap([*map(Wanted, names)], force=force), "swap", pause_s)

    @rule(name=ONE, force=st.booleans())
    def remove(self, name: str, force: bool) -> None:
        async def remove(worker: Worker) -> None:
            self.plane.membership.remove(worker, force=force)

        for worker in self.plane.registered([name]):
            self.act(remove(worker), "remove", 0.0)

    @rule(name=ONE, lift=st.booleans(), pause_s=PAUSES)
    def quarantine(self, name: str, lift: bool, pause_s: float) -> None:
        event = QuarantineLifted if lift else QuarantineRequested

        async def apply(worker: Worker) -> None:
            self.plane.fleet.apply(event(worker.worker_id))

        for worker in self.plane.registered([name]):
            self.act(apply(worker), "quarantine", pause_s)

    @rule(name=ONE, state=st.sampled_from(["active", "drained"]), pause_s=PAUSES)
    def hold(self, name: str, state: str, pause_s: float) -> None:
        change = UpdateWorker.model_validate({"state": state})
        for worker in self.plane.registered([name]):
            self.act(self.plane.membership.update(worker, change), "hold", pause_s)

    # Fate.

    @rule(name=ONE, pause_s=PAUSES)
    def crash(self, name: str, pause_s: float) -> None:
        # Without a silent connection nothing tells the router that what it put to sleep is another process now.
        unwatched = any(worker.watch is not Watch.STANDS for worker in self.plane.registered([name]))
        self.sims[name].unsure = self.sims[name].unsure or unwatched
        self.sims[name].crash()
        self.pass_time(pause_s)

    @rule(name=ONE, pause_s=PAUSES)
    def start(self, name: str, pause_s: float) -> None:
        """Start a process where there is none; one takes longer to load its model than the news of the last's end."""
        if self.sims[name].process is None:
            self.pass_time(START_S)
            self.sims[name].start()
        self.pass_time(pause_s)

    @rule(names=SOME, spoilt=SPOILT)
    def spoil_calls(self, names: list[str], spoilt: tuple[str, str]) -> None:
        path, fault = spoilt
        for name in names:
            self.sims[name].faults[path] = fault

    @rule(name=ONE, slow_s=st.sampled_from([0.0, 0.1, 3.0, 30.0]))
    def slow_down(self, name: str, slow_s: float) -> None:
        self.sims[name].slow_s = slow_s

    @rule(name=ONE, silent=st.booleans())
    def fall_silent(self, name: str, silent: bool) -> None:
        self.sims[name].silent = silent

    @rule(name=ONE, pause_s=PAUSES)
    def cut(self, name: str, pause_s: float) -> None:
        """End a silent connection while the worker lives on."""

        async def cut() -> None:
            for worker in self.plane.registered([name]):
                self.plane.sentinels.cut(worker)
            await asyncio.sleep(pause_s)

        self.run(cut())

    @rule(seconds=st.sampled_from([0.05, 1.0, 12.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)
        assert not self.plane.wrongs, self.plane.wrongs

    # What holds when nothing is in flight.

    @precondition(lambda self: self.plane.calls)
    @rule()
    def settle(self) -> None:
        for sim in self.sims.values():
            sim.heal()
        self.pass_time(START_S)
        for sim in self.sims.values():
            sim.start()
        self.run(self._until_quiet())
        found = self.plane.disagreements()
        assert not found, found

    async def _until_quiet(self) -> None:
        """Let everything end that is under way, and the workers be probed."""
        deadline_s = self.loop.time() + SETTLED_S
        await asyncio.sleep(60.0)
        while not self.plane.is_quiet():
            assert self.loop.time() < deadline_s, self.unfinished()
            await asyncio.sleep(1.0)

    def unfinished(self) -> str:
        calls = [task.get_name() for task in self.plane.calls if not task.done()]
        return f"unfinished: {calls}, {[(w.worker_id, w.status.value) for w in self.registered()]}"

    async def come_back(self) -> None:
        """Whatever has happened: a wake and a refit, and everybody is at work again on the same weights."""
        plane = self.plane
        for worker in self.registered():
            if worker.vitals.sticky:
                plane.fleet.apply(QuarantineLifted(worker.worker_id))
            with contextlib.suppress(RouterError):
                await plane.membership.update(worker, UpdateWorker(state="active"))
        await plane.membership.register(Wanted(NAMES[0]))
        await self._until_quiet()
        workers = self.registered()
        # A worker that was put to sleep behind the router's back counts as awake until it is told to sleep.
        assert all_good(await plane.memory.release(workers), workers)
        assert all_good(await plane.memory.resume(workers), workers)
        assert all_good(await plane.refit("last", Pace()), workers)
        await self._until_quiet()
        found = plane.disagreements()
        assert not found, found
        assert {(w.state, w.health, w.currency, w.loaded) for w in workers} == {
            (WorkerState.ACTIVE, Health.HEALTHY, Currency.CURRENT, "last")
        }
        for _ in range(8):
            plane.work(0.01)
        await asyncio.sleep(10.0)
        assert all(request.good for request in plane.requests[-8:])

    def teardown(self) -> None:
        try:
            if hasattr(self, "plane"):
                try:
                    self.settle()
                    self.run(self.come_back())
                    failures = [entry for entry in self.logged if entry["log_level"] in {"error", "critical"}]
                    assert not failures, failures
                finally:
                    self.run(self.plane.aclose())
        finally:
            self.loop.close()
            self.logs.close()


@pytest.mark.timeout(300)
def test_the_control_plane_keeps_its_promises_whatever_races() -> None:
    run_state_machine_as_test(ControlPlane, settings=settings(max_examples=250, stateful_step_count=40))
