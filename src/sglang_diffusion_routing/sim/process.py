"""A simulated worker as a process of its own, which can be killed, stopped, suspended and started again."""

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from sglang_diffusion_routing.sim.settings import MODULE, READY, SimSettings

START_S = 20.0


class SimFailedToStart(RuntimeError):
    """The process ended, or said nothing, before it listened."""


class SimProcess:
    """`python -m sglang_diffusion_routing.sim` with the options of `SimSettings`.

    As a context manager it starts, waits until the worker listens, and kills it at the end. The sources are those of
    this process; files go to a temporary folder that is removed.
    """

    def __init__(self, **options: Any) -> None:
        self._settings = SimSettings(**options)
        self._process: subprocess.Popen[str] | None = None
        self._folder: str | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def returncode(self) -> int | None:
        """Exit status; None while it runs."""
        return self._running.poll()

    @property
    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            raise RuntimeError("the simulated worker has not been started")
        return self._process

    def start(self, timeout_s: float = START_S) -> None:
        """Start the process and wait until it listens.

        Raises:
            SimFailedToStart: it ended, or did not listen within `timeout_s`.
        """
        self._spawn()
        self._await_ready(timeout_s)

    async def start_async(self, timeout_s: float = START_S) -> None:
        """Start as `start` does, without blocking the event loop."""
        await asyncio.to_thread(self.start, timeout_s)

    def _spawn(self) -> None:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="sglang-sim-")
        settings = self._settings
        if settings.output_dir is None:
            settings = settings.model_copy(update={"output_dir": Path(self._folder)})
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", MODULE, *_flags(settings)],
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C in a terminal is for whoever started it, who ends it in order
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def _await_ready(self, timeout_s: float) -> None:
        process = self._running
        output = process.stdout
        if output is None:
            raise SimFailedToStart("the process has no output")
        deadline_s = time.monotonic() + timeout_s
        readable, _, _ = select.select([output], [], [], max(deadline_s - time.monotonic(), 0.0))
        line = output.readline() if readable else ""
        if not line.startswith(READY):
            self.close()
            raise SimFailedToStart(f"status {process.returncode}, said {line.strip()!r}")
        self.url = line.removeprefix(READY).strip()

    def kill(self) -> None:
        """End it at once with SIGKILL, as a crash does."""
        process = self._running
        process.kill()
        process.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """Send SIGTERM and wait for the end; running requests complete first.

        Returns:
            the exit status.
        """
        process = self._running
        process.send_signal(signal.SIGCONT)  # a suspended process would not notice
        process.terminate()
        return process.wait(timeout_s)

    def suspend(self) -> None:
        """Freeze it with SIGSTOP: connections stay open and nothing is answered."""
        self._running.send_signal(signal.SIGSTOP)

    def resume_process(self) -> None:
        """Let it go on after `suspend`."""
        self._running.send_signal(signal.SIGCONT)

    def restart(self, timeout_s: float = START_S) -> None:
        """Start it again on the same port, killing it first when it still runs."""
        if self._running.poll() is None:
            self.kill()
        self._close_output()
        self._settings = self._settings.model_copy(update={"port": self.port, "strict_ports": True})
        self.start(timeout_s)

    def close(self) -> None:
        """Kill it if it runs, and remove its files."""
        if self._process is not None:
            if self._process.poll() is None:
                self.kill()
            self._close_output()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _close_output(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()


def _flags(settings: SimSettings) -> list[str]:
    """Spell the settings that differ from their defaults as flags."""
    flags: list[str] = []
    for name, field in SimSettings.model_fields.items():
        value = getattr(settings, name)
        if value == field.default:
            continue
        flag = "--" + name.replace("_", "-")
        flags += [flag] if value is True else [flag, str(value)]
    return flags
