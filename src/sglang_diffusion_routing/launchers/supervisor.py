"""Keep the workers of every slot running, and end them all in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from sglang_diffusion_routing.errors import Conflict, WorkersNotReady
from sglang_diffusion_routing.launchers.base import Backend, Ended, Launched
from sglang_diffusion_routing.launchers.keeper import Keeper
from sglang_diffusion_routing.launchers.roster import Roster
from sglang_diffusion_routing.launchers.slots import GIVEN_UP, Order, Patience, Phase, SlotView
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

KILL_LIMIT_S = 35.0
"""A worker that is killed is gone by then, or never (guardian.py, KILL_LIMIT_S)."""


class Supervisor:
    """The slots of one backend.

    Attributes:
        changed: called with a slot after every change of its phase.
    """

    def __init__(self, backend: Backend, roster: Roster, patience: Patience) -> None:
        self._backend = backend
        self._roster = roster
        self._patience = patience
        self._ending = False
        self._keepers = [
            Keeper(slot, backend, roster, patience, self._note, self._may_start) for slot in range(backend.slots)
        ]
        self._tasks = Tasks()
        self._moved = asyncio.Event()
        self.changed: Callable[[SlotView], None] = lambda _: None

    async def prepare(self) -> None:
        """Make certain that there is room for the workers; called once, before `start`.

        Raises:
            BadSetting: there is not.
        """
        await self._backend.prepare()

    def start(self) -> None:
        """Begin to start every worker."""
        for keeper in self._keepers:
            self._tasks.spawn(keeper.tend(), name=f"slot-{keeper.slot}")

    async def wait_ready(self, wanted: int) -> None:
        """Wait until so many workers serve.

        Raises:
            WorkersNotReady: that took too long, or too many have been given up.
        """
        limit_s = self._patience.wait_s
        try:
            async with asyncio.timeout(limit_s):
                while self.ready < wanted:
                    if sum(keeper.phase not in GIVEN_UP for keeper in self._keepers) < wanted:
                        raise self._not_ready(wanted, "the others died too often")
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise self._not_ready(wanted, f"the others did not come up within {limit_s:g} s") from None

    @property
    def ready(self) -> int:
        """Count the workers that serve."""
        return sum(keeper.phase is Phase.READY for keeper in self._keepers)

    def _not_ready(self, wanted: int, why: str) -> WorkersNotReady:
        """Say what is wrong by the slot of which most is known."""
        failed = [view for view in self.slots if view.phase is not Phase.READY]
        worst = max(failed, key=lambda view: (bool(view.reason), len(view.tail)))
        words = f"worker {worst.slot} {worst.reason or 'is ' + worst.phase.value}"
        return WorkersNotReady(self.ready, wanted, f"{why}; {words}", worst.tail, worst.log)

    def _may_start(self) -> bool:
        return not (self._ending or self._roster.asleep)

    def _note(self, keeper: Keeper) -> None:
        self._moved.set()
        self.changed(keeper.view())

    # What operators ask for.

    @property
    def slots(self) -> list[SlotView]:
        """Show every slot."""
        return [keeper.view() for keeper in self._keepers]

    def find(self, url: str) -> SlotView | None:
        """Show the slot whose worker has a URL, or had it last."""
        keeper = self._keeper_of(url)
        return None if keeper is None else keeper.view()

    def ask(self, url: str, order: Order, *, force: bool = False) -> SlotView:
        """Have a worker stopped, started or replaced; returns at once.

        Stopping and replacing let it end its work first, unless by force. Starting one that runs does nothing.

        Raises:
            Conflict: it was not started here, or the fleet sleeps and the GPUs are somebody else's.
        """
        keeper = self._keeper_of(url)
        if keeper is None:
            raise Conflict(f"{url} was not started by this router", worker_id=url)
        if order is not Order.STOP and self._roster.asleep:
            raise Conflict(f"the fleet sleeps, and {url} would take GPUs that are somebody else's now", worker_id=url)
        keeper.ask(order, force=force)
        return keeper.view()

    def _keeper_of(self, url: str) -> Keeper | None:
        return next((keeper for keeper in self._keepers if url in (keeper.url, keeper.enlisted)), None)

    # The end.

    def stop_restarting(self) -> None:
        """Start no worker again that dies: the router ends, and waits for their work alone."""
        self._ending = True

    async def stop(self, grace_s: float) -> None:
        """End every worker: asked first, killed after `grace_s` or its own limit. None is started any more."""
        await self._tasks.cancel_all()
        grace_s = min(grace_s, self._patience.stop_s)

        async def end(launched: Launched) -> Ended:
            return await launched.terminate(grace_s)

        await self._end_all(end, grace_s + KILL_LIMIT_S)

    async def aclose(self) -> None:
        """Kill whatever runs, and give back what the backend holds; safe to repeat."""
        await self._tasks.cancel_all()

        async def kill(launched: Launched) -> Ended:
            launched.kill()
            return await launched.wait()

        await self._end_all(kill, KILL_LIMIT_S)
        await self._backend.aclose()

    async def _end_all(self, end: Callable[[Launched], Coroutine[Any, Any, Ended]], limit_s: float) -> None:
        ends = [
            self._tasks.spawn(end(keeper.launched), name="end-worker")
            for keeper in self._keepers
            if keeper.launched is not None
        ]
        if not ends:
            return
        done, late = await asyncio.wait(ends, timeout=limit_s)
        if late:
            _log.error("workers_would_not_end", workers=len(late))
        for keeper in self._keepers:
            keeper.launched = None
        _log.info("workers_ended", workers=len(done))
