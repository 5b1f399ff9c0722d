"""A backend and a roster that do as their test says, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.launchers.base import Ended, Fact, LaunchFailed
from sglang_diffusion_routing.launchers.roster import Answer
from sglang_diffusion_routing.launchers.slots import Patience, Phase, RestartLimits, SlotView
from sglang_diffusion_routing.launchers.supervisor import Supervisor
from support.virtual_time import VirtualLoop

LOADS_S = 10.0
PATIENCE = Patience(
    wait_s=100.0, stop_s=5.0, restarts=RestartLimits(delay_s=1.0, delay_max_s=60.0, deaths=4, window_s=300.0)
)


class PlayedWorker:
    """A worker that serves after a while and lives until it is told to end."""

    def __init__(self, slot: int, url: str, roster: PlayedRoster) -> None:
        self.slot = slot
        self.url = url
        self.pid: int | None = 1000 + slot
        self.log: str | None = f"/logs/{slot}"
        self.began_s = asyncio.get_running_loop().time()
        self.obeys = True
        self.asked: list[str] = []
        self._roster = roster
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def facts(self) -> Mapping[str, Fact]:
        return {"gpus": str(self.slot)}

    def tail(self, lines: int) -> tuple[str, ...]:
        return ("loading shard 1 of 2",)

    def die(self, reason: str = "was killed by SIGSEGV") -> None:
        if not self._ended.done():
            self.pid = None
            self._ended.set_result(Ended(reason, ("its last words",)))

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def terminate(self, grace_s: float) -> Ended:
        self.asked.append(f"terminate {grace_s:g}")
        if self.obeys and grace_s > 0:
            await asyncio.sleep(min(2.0, grace_s))
            self.die("ended with status 0")
        else:
            await asyncio.sleep(grace_s)
            self.kill()
        return await self.wait()

    def kill(self) -> None:
        self.asked.append("kill")
        self.die("was killed by SIGKILL")


class PlayedBackend:
    """Starts workers at once, or fails as often as it is told to."""

    def __init__(self, roster: PlayedRoster, slots: int = 1, *, keeps_url: bool = True) -> None:
        self.slots = slots
        self.keeps_url = keeps_url
        self.workers: list[PlayedWorker] = []
        self.failures: list[Exception] = []
        self.held = asyncio.Event()
        self.held.set()
        self.closed = False
        self._roster = roster

    async def prepare(self) -> None: ...

    async def launch(self, slot: int) -> PlayedWorker:
        await self.held.wait()
        if self.failures:
            raise self.failures.pop(0)
        number = slot if self.keeps_url else len(self.workers)
        worker = PlayedWorker(slot, f"http://w{number}:1", self._roster)
        self.workers.append(worker)
        self._roster.answers[worker.url] = worker
        return worker

    async def aclose(self) -> None:
        self.closed = True


class PlayedRoster:
    """Notes what it is told.

    broken: URLs whose process that generates has ended. refusing: raised for whoever is to be enlisted.
    drains_s: how long work goes on at a worker that is drained.
    """

    def __init__(self) -> None:
        self.asleep = False
        self.loads_s = LOADS_S
        self.drains_s = 3.0
        self.answers: dict[str, PlayedWorker] = {}
        self.broken: set[str] = set()
        self.suspected: set[str] = set()
        self.registered: dict[int, str] = {}
        self.refusing: RouterError | None = None
        self.told: list[str] = []

    async def ask(self, url: str) -> Answer:
        if url in self.broken:
            return Answer.ENGINE_DIED
        up_s = asyncio.get_running_loop().time() - self.answers[url].began_s
        return Answer.SERVES if up_s >= self.loads_s else Answer.NOT_YET

    async def enlist(self, slot: int, url: str) -> None:
        if self.refusing is not None:
            raise self.refusing
        self.registered[slot] = url
        self.told.append(f"enlist {slot} {url}")

    def died(self, url: str, reason: str) -> None:
        self.told.append(f"died {url}: {reason}")

    def dismiss(self, slot: int) -> None:
        if self.registered.pop(slot, None) is not None:
            self.told.append(f"dismiss {slot}")

    def is_registered(self, url: str) -> bool:
        return url in self.registered.values()

    def is_suspected(self, url: str) -> bool:
        return url in self.suspected

    async def drain(self, url: str, *, for_good: bool, force: bool) -> None:
        self.told.append(f"drain {url}{' for good' if for_good else ''}{' by force' if force else ''}")
        if not force:
            await asyncio.sleep(self.drains_s)
        if for_good:
            self.registered = {slot: known for slot, known in self.registered.items() if known != url}


class Stage:
    """A supervisor between the two."""

    def __init__(self, slots: int = 1, *, keeps_url: bool = True) -> None:
        self.roster = PlayedRoster()
        self.backend = PlayedBackend(self.roster, slots, keeps_url=keeps_url)
        self.supervisor = Supervisor(self.backend, self.roster, PATIENCE)
        self.history: list[tuple[float, Phase]] = []
        began_s = asyncio.get_running_loop().time()
        self._moved = asyncio.Event()

        def changed(view: SlotView) -> None:
            self.history.append((asyncio.get_running_loop().time() - began_s, view.phase))
            self._moved.set()

        self.supervisor.changed = changed

    @property
    def worker(self) -> PlayedWorker:
        """The worker that was started last."""
        return self.backend.workers[-1]

    @property
    def slot(self) -> SlotView:
        return self.supervisor.slots[0]

    @property
    def phases(self) -> list[Phase]:
        return [phase for _, phase in self.history]

    async def until(self, phase: Phase) -> None:
        """Wait until the first slot is in a phase, however long that takes on this clock."""
        async with asyncio.timeout(10_000):
            while self.slot.phase is not phase:
                self._moved.clear()
                await self._moved.wait()

    async def ready(self) -> None:
        self.supervisor.start()
        await self.until(Phase.READY)


def on_stage(play: Callable[[Stage], Coroutine[Any, Any, None]], slots: int = 1, *, keeps_url: bool = True) -> None:
    """Run a test on a clock that jumps."""

    async def run() -> None:
        stage = Stage(slots, keeps_url=keeps_url)
        try:
            await play(stage)
        finally:
            await stage.supervisor.aclose()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


__all__ = ["LOADS_S", "PATIENCE", "LaunchFailed", "Stage", "on_stage"]
