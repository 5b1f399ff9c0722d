"""A simulated worker behind a real HTTP server: uvicorn with h11, as SGLang starts its own."""

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import uvicorn

from sglang_diffusion_routing.sim.app import build
from sglang_diffusion_routing.sim.routes.control import set_on
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.worker import Worker

PORTS_TRIED = 100
READY = "sim worker ready on "


class PortTaken(OSError):
    """The port, or the one above it for the broker, is in use."""


class _Server(uvicorn.Server):
    """uvicorn that says when it listens."""

    def __init__(self, config: uvicorn.Config, started: threading.Event) -> None:
        super().__init__(config)
        self._has_started = started
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self._has_started.set()


def serve(settings: SimSettings) -> None:
    """Serve until SIGTERM or SIGINT: the listener closes at once, running requests end, then it returns.

    Prints one line when it listens: `sim worker ready on http://HOST:PORT`.

    Raises:
        PortTaken: with `strict_ports`, or when no port near the wanted one is free.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(settings))
        worker = Worker(_with_port(settings, listener))
        server = _PrintingServer(_config(worker), threading.Event(), _url(listener))
        server.run(sockets=[listener])


class _PrintingServer(_Server):
    def __init__(self, config: uvicorn.Config, started: threading.Event, url: str) -> None:
        super().__init__(config, started)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(f"{READY}{self._url}\n")
        sys.stdout.flush()


class SimServer:
    """A simulated worker in a thread of this process, for tests: its own loop, its own port.

    Use as a context manager; `url` is valid inside it, and so is `worker`, whose state may be read.
    """

    def __init__(self, settings: SimSettings | None = None) -> None:
        self._settings = settings or SimSettings()
        self._stack = contextlib.ExitStack()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.url = ""
        self.worker: Worker

    def __enter__(self) -> Self:
        listener = self._stack.enter_context(_bound(self._settings))
        self.worker = Worker(_with_port(self._settings, listener))
        started = threading.Event()
        self._server = _Server(_config(self.worker), started)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name=f"{self.worker.name}-http", daemon=True
        )
        self._thread.start()
        if not started.wait(10.0):
            raise TimeoutError("the simulated worker did not start within 10 s")
        self.url = _url(listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop without waiting for running requests."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(timeout_s)
        self._stack.close()

    def faults(self, **changes: Any) -> None:
        """Put faults in force, from any thread; see `Faults`."""
        if self._server is None or self._server.loop is None:
            raise RuntimeError("the simulated worker does not run")

        async def change() -> None:
            set_on(self.worker, **changes)

        asyncio.run_coroutine_threadsafe(change(), self._server.loop).result(10.0)


def _config(worker: Worker) -> uvicorn.Config:
    verbose = worker.settings.verbose
    if not verbose:  # unhandled errors are part of the act: their traces would drown a test's output
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    return uvicorn.Config(
        build(worker),
        http="h11",
        ws="websockets-sansio",
        loop="auto",
        lifespan="on",
        access_log=verbose,
        log_config=uvicorn.config.LOGGING_CONFIG if verbose else None,
        timeout_keep_alive=5,
        server_header=True,
        date_header=True,
    )


def _with_port(settings: SimSettings, listener: socket.socket) -> SimSettings:
    return settings.model_copy(update={"port": listener.getsockname()[1]})


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _bound(settings: SimSettings) -> Iterator[socket.socket]:
    """Take the wanted port, or without `strict_ports` the next free one, and the broker's port above it."""
    last = settings.port if settings.strict_ports or settings.port == 0 else min(settings.port + PORTS_TRIED, 65535)
    for port in range(settings.port, last + 1):
        with contextlib.ExitStack() as stack:
            try:
                listener = stack.enter_context(_listen(settings.host, port))
                if settings.broker:
                    stack.enter_context(_listen(settings.host, listener.getsockname()[1] + 1))
            except OSError as error:
                if port == last:
                    raise PortTaken(
                        error.errno, f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
                    ) from error
                continue
            yield listener
            return


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError:
        listener.close()
        raise
    return listener
