"""Keep one slot's worker running: start it, let it have work once it serves, start it again when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import structlog

from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.launchers.base import Backend, Ended, Fact, Launched, LaunchFailed
from sglang_diffusion_routing.launchers.roster import Answer, Roster
from sglang_diffusion_routing.launchers.slots import Order, Patience, Phase, Row, SlotView, Trigger, after
from sglang_diffusion_routing.tasks import spawn

T = TypeVar("T")

_log = structlog.get_logger(__name__)

LOOK_S = 0.5
"""How often a worker that loads is asked whether it serves, one that fails its checks why, and a fleet if it sleeps."""


_RUNNING = frozenset({Phase.STARTING, Phase.LOADING, Phase.READY})


class Keeper:
    """One slot, and whatever is in it.

    Args:
        may_start: whether a worker that died may be started again now; if not, it is asked again and again.

    Attributes:
        launched: the worker whose process runs.
        url: of that worker, or of the last one.
        enlisted: the URL under which the slot's worker is registered, or was last; the next one's may differ.
    """

    def __init__(
        self,
        slot: int,
        backend: Backend,
        roster: Roster,
        patience: Patience,
        note: Callable[[Keeper], None],
        may_start: Callable[[], bool],
    ) -> None:
        self.slot = slot
        self.phase = Phase.STARTING
        self.launched: Launched | None = None
        self.url: str | None = None
        self.enlisted: str | None = None
        self._backend = backend
        self._roster = roster
        self._patience = patience
        self._note = note
        self._may_start = may_start
        self._now_s = asyncio.get_running_loop().time
        self._since_s = self._now_s()
        self._row = Row(patience.restarts)
        self._starts = 0
        self._delay_s = 0.0
        self._reason = ""
        self._tail: tuple[str, ...] = ()
        self._log: str | None = None
        self._facts: Mapping[str, Fact] = {}
        self._asked = asyncio.Event()
        self._stop_wanted = self._start_wanted = self._force = False

    def view(self) -> SlotView:
        launched = self.launched
        loading = launched is not None and self.phase is Phase.LOADING
        return SlotView(
            slot=self.slot,
            phase=self.phase,
            url=self.url,
            pid=None if launched is None else launched.pid,
            restarts=max(self._starts - 1, 0),
            log=self._log,
            reason=self._reason,
            since_s=self._since_s,
            facts=self._facts,
            tail=launched.tail(1) if loading and launched is not None else self._tail,
        )

    def ask(self, order: Order, *, force: bool = False) -> None:
        """Take an operator's order; the last one counts."""
        if order is Order.START and self.phase in _RUNNING:
            return
        self._start_wanted = order is not Order.STOP
        self._stop_wanted = self._stop_wanted or (order is not Order.START and self.phase is not Phase.STOPPED)
        self._force = self._force or force
        self._asked.set()

    async def tend(self) -> None:
        """Go from phase to phase for ever."""
        steps: dict[Phase, Callable[[], Coroutine[Any, Any, None]]] = {
            Phase.STARTING: self._launch,
            Phase.LOADING: self._load,
            Phase.READY: self._watch,
            Phase.STOPPING: self._stop,
            Phase.STOPPED: self._stay,
            Phase.BACKING_OFF: self._back_off,
            Phase.WAITING: self._await_wake,
            Phase.CRASH_LOOPING: self._stay,
        }
        while True:
            await steps[self.phase]()

    # The phases with a worker.

    async def _launch(self) -> None:
        self._start_wanted = False
        self._starts += 1
        try:
            await self._unless_stopped(self._launch_now())
        except LaunchFailed as failure:
            self._died(failure.ended, served_s=0.0)
            return
        except Exception as error:  # noqa: BLE001 - a backend may stand on libraries of others; the slot lives on
            _log.exception("launch_broke_off", slot=self.slot)
            self._died(Ended(f"could not be started: {error}"), served_s=0.0)
            return
        self._move(Trigger.STOP if self._stop_wanted else Trigger.LAUNCHED)

    async def _launch_now(self) -> None:
        self.launched = launched = await self._backend.launch(self.slot)
        self.url, self._log, self._facts = launched.url, launched.log, launched.facts()

    async def _load(self) -> None:
        assert self.launched is not None
        ended = await self._unless_stopped(self._until_it_serves(self.launched))
        if ended is not None:
            self._died(ended, served_s=0.0)
        else:
            self._move(Trigger.STOP if self._stop_wanted else Trigger.SERVES)

    async def _until_it_serves(self, launched: Launched) -> Ended | None:
        """Wait until a worker serves and may have work; how it ended if it did before, or took too long."""
        deadline_s = self._now_s() + self._patience.wait_s
        ending = spawn(launched.wait(), name="worker-end")
        try:
            while not ending.done():
                answer = await self._roster.ask(launched.url)
                if answer is Answer.SERVES and not ending.done():
                    return await self._enlist(launched)
                if answer is Answer.ENGINE_DIED:
                    return await self._killed(launched, "lost the process that generates while it loaded")
                if self._now_s() >= deadline_s:
                    return await self._killed(launched, f"did not serve within {self._patience.wait_s:g} s")
                await asyncio.wait([ending], timeout=LOOK_S)
            return ending.result()
        finally:
            ending.cancel()

    async def _enlist(self, launched: Launched) -> Ended | None:
        """Let a worker have work; how it was ended if it may not be one."""
        try:
            await self._roster.enlist(self.slot, launched.url)
        except RouterError as error:
            return await self._killed(launched, f"was not taken in: {error.message}")
        self.enlisted = launched.url
        return None

    @staticmethod
    async def _killed(launched: Launched, reason: str) -> Ended:
        launched.kill()
        return Ended(reason, (await launched.wait()).tail)

    async def _watch(self) -> None:
        assert self.launched is not None
        since_s = self._since_s
        ended = await self._unless_stopped(self._until_it_ends(self.launched))
        if ended is not None:
            self._died(ended, served_s=self._now_s() - since_s)
        else:
            self._stop_wanted = True
            self._move(Trigger.STOP)

    async def _until_it_ends(self, launched: Launched) -> Ended | None:
        """Wait until a worker has ended; None when an operator has removed it."""
        ending = spawn(launched.wait(), name="worker-end")
        try:
            while not ending.done():
                if not self._roster.is_registered(launched.url):
                    return None
                if self._roster.is_suspected(launched.url) and (
                    await self._roster.ask(launched.url) is Answer.ENGINE_DIED
                ):
                    return await self._killed(launched, "lost the process that generates")
                await asyncio.wait([ending], timeout=LOOK_S)
            return ending.result()
        finally:
            ending.cancel()

    def _died(self, ended: Ended, served_s: float) -> None:
        """Take in that the worker has ended by itself, or was ended for its own good."""
        if self.launched is not None:
            self._forget(self.launched, ended.reason)
        delay_s = self._row.died(served_s)
        self._delay_s = delay_s or 0.0
        self._move(Trigger.LOOPED if delay_s is None else Trigger.DIED, ended.reason, ended.tail)

    def _forget(self, launched: Launched, reason: str) -> None:
        self.launched = None
        if self._roster.is_registered(launched.url):
            self._roster.died(launched.url, reason)

    async def _stop(self) -> None:
        launched = self.launched
        if launched is not None:
            await self._ended_in_order(launched)
            self._forget(launched, "it was stopped")
        self._leave()
        self._move(Trigger.ENDED)

    async def _ended_in_order(self, launched: Launched) -> None:
        """Let a worker end its work, and then end it; who wants force later gets it then."""
        ending = spawn(launched.wait(), name="worker-end")
        for_good = not (self._start_wanted and self._backend.keeps_url)
        draining = spawn(self._roster.drain(launched.url, for_good=for_good, force=self._force), name="worker-drain")
        try:
            while not (draining.done() or ending.done() or self._force):
                await self._either(asyncio.wait([draining, ending], return_when=asyncio.FIRST_COMPLETED))
            await launched.terminate(0.0 if self._force else self._patience.stop_s)
        finally:
            draining.cancel()
            ending.cancel()

    # The phases without one.

    async def _stay(self) -> None:
        if self._start_wanted and not self._stop_wanted:
            self._row.forgive()
            self._move(Trigger.START)
        elif self._stop_wanted and self.phase is not Phase.STOPPED:
            self._leave()
            self._move(Trigger.STOP)
        else:
            self._stop_wanted = False
            await self._asked.wait()
            self._asked.clear()

    async def _back_off(self) -> None:
        if not (self._stop_wanted or self._start_wanted):
            await self._either(asyncio.sleep(self._delay_s))
        if self._stop_wanted or self._start_wanted:
            await self._stay()
        else:
            self._move(Trigger.DUE if self._may_start() else Trigger.ASLEEP, self._reason, self._tail)

    async def _await_wake(self) -> None:
        await self._either(asyncio.sleep(LOOK_S))
        if self._stop_wanted:
            await self._stay()
        elif self._may_start():
            self._move(Trigger.DUE, self._reason, self._tail)

    def _leave(self) -> None:
        """Have the worker removed that is not to come back."""
        comes_back = self._start_wanted
        self._stop_wanted = self._force = False
        if not comes_back:
            self._roster.dismiss(self.slot)

    # How it goes on.

    def _move(self, trigger: Trigger, reason: str = "", tail: tuple[str, ...] = ()) -> None:
        before, self.phase = self.phase, after(self.phase, trigger)
        self._since_s = self._now_s()
        self._reason, self._tail = reason, tail
        write = _log.warning if trigger in {Trigger.DIED, Trigger.LOOPED} else _log.info
        facts = {"reason": reason} if reason else {}
        write(f"slot_{self.phase.value}", slot=self.slot, worker=self.url, before=before.value, **facts)
        self._note(self)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do something; an operator who wants the slot stopped ends it, and None is given."""
        task = spawn(work, name=f"slot-{self.slot}-{self.phase.value}", on_error=lambda _: None)
        try:
            while not task.done() and not self._stop_wanted:
                await self._either(asyncio.wait([task]))
            return task.result() if task.done() else None
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _either(self, work: Coroutine[Any, Any, object]) -> None:
        """Wait for something, or until an operator asks for something."""
        waits = [spawn(work, name="slot-wait"), spawn(self._asked.wait(), name="slot-asked")]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._asked.clear()
            for task in waits:
                task.cancel()
