"""The router and simulated workers as forked processes that come back at the same address."""

import asyncio
import signal
from typing import Any
from urllib.parse import urlsplit

import httpx2

from support.nursery import Child, Nursery

READY_S = 30.0


async def _until_said(child: Child, beginning: str) -> str:
    """Wait until the child has said a line with `beginning` in it; give what follows that, to the line's end."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + READY_S
    while True:
        _, found, rest = child.output().partition(beginning)
        if found and "\n" in rest:
            return rest.partition("\n")[0].strip()
        assert child.is_running(), f"it ended: {child.output()}"
        assert loop.time() < deadline_s, f"not ready after {READY_S:g} s: {child.output()}"
        await asyncio.sleep(0.005)


class ForkedSim:
    """A simulated worker. `deaths` counts its kills; while it `is_dying` it may go by itself.

    Args:
        flags: as the command line has them.
    """

    def __init__(self, nursery: Nursery, name: str, *flags: str) -> None:
        self._nursery = nursery
        self.name = name
        self._flags = flags
        self._child: Child | None = None
        self.url = ""
        self.deaths = 0
        self.is_dying = False

    async def start(self, *more_flags: str) -> None:
        """Start it, at the address that it had before if it had one."""
        port = str(urlsplit(self.url).port or 0)
        flags = [*self._flags, "--name", self.name, "--port", port, "--strict-ports", *more_flags]
        self._child = self._nursery.start("sim", *flags)
        self.url = await _until_said(self._child, "sim worker ready on ")

    async def restart(self, *more_flags: str) -> None:
        self.kill()
        self.is_dying = False
        await self.start(*more_flags)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running()

    def kill(self) -> None:
        if self._child is not None:
            self.deaths += 1
            self._child.kill()

    def signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.signal(number)

    async def set_faults(self, client: httpx2.AsyncClient, **faults: Any) -> None:
        (await client.post(f"{self.url}/sim/faults", json=faults)).raise_for_status()


class ForkedRouter:
    """A router. `now_s` counts from its making; `outages` are the times when it was not there."""

    def __init__(self, nursery: Nursery, *flags: str, program: str = "router") -> None:
        self._loop = asyncio.get_running_loop()
        self._made_s = self._loop.time()
        self._nursery = nursery
        self._program = program
        self._flags = flags
        self._lives: list[Child] = []
        self._port = 0
        self.outages: list[tuple[float, float]] = []

    def now_s(self) -> float:
        return self._loop.time() - self._made_s

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_running(self) -> bool:
        return bool(self._lives) and self._lives[-1].is_running()

    async def start(self, *more_flags: str) -> None:
        """Start it, at the port that it had before if it had one."""
        flags = ["--host", "127.0.0.1", "--port", str(self._port), *self._flags, *more_flags]
        self._lives.append(self._nursery.start(self._program, *flags))
        said = await _until_said(self._lives[-1], "listening on http://")
        self._port = int(said.rpartition(":")[2])

    def kill(self) -> None:
        """End it with SIGKILL: what it had not written down is lost."""
        if self._lives:
            self._lives[-1].kill()

    async def kill_and_restart(self, down_s: float) -> None:
        killed_s = self.now_s()
        self.outages.append((killed_s, float("inf")))
        self.kill()
        await asyncio.sleep(down_s)
        await self.start()
        self.outages[-1] = (killed_s, self.now_s())

    def was_down(self, since_s: float) -> bool:
        """Tell whether it was away at some moment since then."""
        return any(since_s <= ready_s for _, ready_s in self.outages)

    def output(self) -> str:
        """All that its lives have said."""
        return "".join(life.output() for life in self._lives)
