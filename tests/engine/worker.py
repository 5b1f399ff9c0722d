"""One real worker as a process of its own, without a router."""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
from pathlib import Path
from typing import Self

import httpx2

from support.deadlines import eventually

START_S = 300.0  # imports and a warm-up: 20 s alone, minutes on a machine that others use too
STOP_S = 30.0
PAUSE_S = 0.3  # between two looks at what takes long, since looking takes from what is looked at
WARM = ("--warmup-resolutions", "64x64")  # else it warms up with a picture of 1024x1024, which takes minutes


class EngineWorker:
    """`sglang serve` on four free ports: HTTP, the broker, the scheduler, the master.

    As a context manager it serves when the block begins.

    Attributes:
        url: where it listens.
        model: its model's folder.
    """

    def __init__(self, environment: Path, model: str, folder: Path, *arguments: str) -> None:
        self.model = str(environment / "models" / model)
        folder.mkdir(parents=True)
        self._folder = folder
        port = free_ports(4)
        self.url = f"http://127.0.0.1:{port}"
        self._command = [
            *(str(environment / "sglang"), "serve", "--model-type", "diffusion", "--model-path", self.model),
            *("--host", "127.0.0.1", "--port", str(port), "--strict-ports"),
            *("--scheduler-port", str(port + 2), "--master-port", str(port + 3), "--sleep-on-idle"),
            *(*WARM, *arguments),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,  # where it keeps its pictures
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its schedulers are processes too, and end with it as one group
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it calls the kernel and nothing else
                env={**os.environ, "TMPDIR": str(self._folder)},
            )
        try:
            eventually(self._serves, bool, within_s=START_S, every_s=PAUSE_S)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the worker ended while it loaded:\n{self.log()[-4_000:]}"
        try:
            return httpx2.get(f"{self.url}/health", timeout=5.0).status_code == 200
        except httpx2.TransportError:
            return False

    def _end(self) -> None:
        """Kill all of it: nothing that a test asked it for is still wanted."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_S)


def _end_with_parent() -> None:
    """Have the kernel end this process in order when the one that started it dies, however it dies (prctl(2))."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def free_ports(count: int) -> int:
    """Find free ports in a row, and give the first.

    They are taken half a minute after they are chosen, so they are none of those that the kernel hands out meanwhile.
    """
    while True:
        first = random.randrange(20_000, 32_000, count)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
