"""Run the control app on uvicorn behind a Unix socket that only this user can reach."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

from sglang_diffusion_routing.tasks import spawn

_log = structlog.get_logger(__name__)

_START_TIMEOUT_S = 10.0
_LONGEST_SOCKET_PATH = 107
"""`sun_path` of sockaddr_un(7) has 108 bytes, the last of them zero."""


class _Server(uvicorn.Server):
    """uvicorn that leaves signals alone: the router has its own order of ending, and tells it when."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def main_loop(self) -> None:
        """Renew the date header once a second; uvicorn's own loop wakes up ten times a second to look for its end."""
        while not self.should_exit:
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ending.wait()


class ControlServer:
    """One ASGI app on one private socket.

    Attributes:
        path: the socket, in a directory of mode 0700 that goes with the server.
    """

    def __init__(self) -> None:
        self._directory = _private_directory()
        self.path = str(self._directory / "control.sock")
        self._server: _Server | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self, app: ASGIApp) -> None:
        """Listen; returns when a connection would be accepted."""
        self._server = server = _Server(
            uvicorn.Config(
                app,
                uds=self.path,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                # The app logs its own faults with their cause; uvicorn would log each a second time.
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                # Longer than the data plane reuses an idle connection: that side closes first.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=5,
            )
        )
        self._running = spawn(server.serve(), name="control-server")
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not server.started:
                if self._running.done():
                    self._running.result()
                    raise RuntimeError("the control server ended before it listened")
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Let running requests finish, at most a few seconds, and remove the socket; safe to repeat."""
        if self._running is not None and self._server is not None:
            self._server.end()
            _, late = await asyncio.wait([self._running], timeout=10.0)
            for task in late:
                task.cancel()
                _log.warning("control_server_cancelled")
            self._running = None
        shutil.rmtree(self._directory, ignore_errors=True)


def _private_directory() -> Path:
    """Make a directory of mode 0700 whose path leaves room for a socket's name."""
    directory = Path(tempfile.mkdtemp(prefix="sglang-d-router-"))
    if len(str(directory / "control.sock").encode()) > _LONGEST_SOCKET_PATH:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="sglang-d-router-", dir="/tmp"))
    return directory
