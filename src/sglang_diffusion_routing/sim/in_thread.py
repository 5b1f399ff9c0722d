"""A simulated worker in a thread of this process: for tests that need many, quickly."""

import asyncio
import contextlib
import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn

from sglang_diffusion_routing.sim.server import Http, bound, config_of, url_of, with_port
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.worker import Worker

START_S = 10.0
STOP_S = 10.0


class SimInThread:
    """A worker with its own thread, event loop and port.

    As a context manager it listens when the block begins and is gone when it ends. `url` stays the same over `restart`;
    `worker` is the worker of the current run, whose state may be read from any thread.
    """

    worker: Worker

    def __init__(self, settings: SimSettings | None = None) -> None:
        self._settings = settings or SimSettings()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._stack = contextlib.ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and return once it listens."""
        listener = self._stack.enter_context(bound(self._settings))
        settings = with_port(self._settings, listener)
        self.worker = Worker(settings, exit_process=self._end)
        server = _Server(config_of(self.worker))
        self._server = server
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name=f"{self.worker.name}-http", daemon=True
        )
        self._thread.start()
        if not server.has_started.wait(START_S):
            raise TimeoutError(f"the simulated worker did not start within {START_S} s")
        self._settings = self._settings.model_copy(update={"port": settings.port, "strict_ports": True})
        self.url = url_of(settings, listener)

    def crash(self) -> None:
        """Die as a killed process does: listener and connections close at once, and with them all work and weights."""
        self._end()
        if self._thread is not None:
            self._thread.join(STOP_S)
        self._stack.close()

    stop = crash  # nothing in a thread needs a gentler end; SIGTERM is for SimProcess

    def restart(self) -> None:
        """Start anew on the same port, with the weights that the settings name."""
        self.crash()
        self.start()

    def cut_silent(self) -> None:
        """Cut the connections on which nothing was ever asked, as a load balancer does; the worker lives on."""
        self._running.loop.call_soon_threadsafe(self._running.cut_silent)

    def faults(self, **changes: Any) -> None:
        """Put faults in force and return once they are; see `faults.Faults`."""
        asyncio.run_coroutine_threadsafe(_change(self.worker, changes), self._running.loop).result(STOP_S)

    def finish_warmup(self) -> None:
        """End the warm-up now."""
        self._running.loop.call_soon_threadsafe(self.worker.warm.set)

    @property
    def _running(self) -> "_Server":
        if self._server is None:
            raise RuntimeError("the simulated worker does not run")
        return self._server

    def _end(self) -> None:
        """End the run, from any thread."""
        if self._server is not None:
            self._server.end()
        self.worker.close()


async def _change(worker: Worker, changes: dict[str, Any]) -> None:
    worker.set_faults(**changes)


class _Server(uvicorn.Server):
    """uvicorn that ends at once, without waiting for requests, and says when it has started."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Close the listener and every connection, from any thread; nothing that happens later is still answered."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self.loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        self._ending.set()

    def cut_silent(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, Http) and not connection.asked and connection.transport is not None:
                connection.transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.has_started.set()

    async def main_loop(self) -> None:
        while not self._ending.is_set():
            await self.on_tick(0)  # 0 is a tick that renews the date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self.server_state.tasks:
            task.cancel()
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)
        # What was accepted in the last moment is a connection only now; uvloop cannot close a loop that has one.
        await asyncio.sleep(0)
        self._cut()
        await asyncio.sleep(0)
        await self.lifespan.shutdown()
