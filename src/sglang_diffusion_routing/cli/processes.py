"""Run simulated workers and the router as processes, all of them gone at the end."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sglang_diffusion_routing.settings.declared import ENV_PREFIX
from sglang_diffusion_routing.sim.process import SimProcess

LISTENING = re.compile(rb"listening on (http://\S+:\d+)\s")
START_S = 20.0
STOP_S = 5.0


class RouterFailed(RuntimeError):
    """The router did not start, or ended early."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used: CPU seconds since its start, resident bytes now and at most."""

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Read the usage of a running process from /proc (proc(5))."""
        # The command in field 2 may hold blanks; what is behind its parenthesis starts with field 3.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return cls(
            cpu_s=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
            rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
            peak_rss_bytes=int(status["VmHWM"].split()[0]) * 1024,
        )


class RouterProcess:
    """`sglang-d-router` on a free port of this machine, with its log in a file.

    Args:
        flags: further ones, which win over those of this class.
        start_s, stop_s: how long it may take to start, and to end; more where it starts and ends workers itself.
    """

    def __init__(
        self,
        worker_urls: Sequence[str],
        log: Path,
        flags: Sequence[str] = (),
        *,
        start_s: float = START_S,
        stop_s: float = STOP_S,
    ) -> None:
        self._worker_urls = worker_urls
        self._log = log
        self._flags = flags
        self._start_s = start_s
        self._stop_s = stop_s
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """Give the process id; it has been started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            RouterFailed: it ended or did not listen in time.
        """
        workers = ["--worker-urls", *self._worker_urls] if self._worker_urls else []
        words = ["--host", "127.0.0.1", "--port", "0", *workers, *self._flags]
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
        # A shell's settings are meant for another router: with its keys this one would refuse whoever started it.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "sglang_diffusion_routing", *words],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for whoever started it, who ends it in order
                stdout=subprocess.PIPE,
                stderr=log,
                env={**environ, "PYTHONPATH": path},
            )
        self.url = self._await_listening()

    def _await_listening(self) -> str:
        """Read its standard output until it says where it listens."""
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        deadline_s = time.monotonic() + self._start_s
        said = b""
        while (left_s := deadline_s - time.monotonic()) > 0:
            readable, _, _ = select.select([output], [], [], left_s)
            part = os.read(output, 4096) if readable else b""
            said += part
            if listening := LISTENING.search(said):
                return listening[1].decode()
            if not part:
                break
        lines = self._log.read_text(errors="replace").splitlines()
        raise RouterFailed(": ".join(["the router did not start", *lines[-1:]]))

    def usage(self) -> Usage:
        """Tell what it has used so far."""
        return Usage.of(self.pid)

    def close(self) -> None:
        """End it: asked first, killed when it does not follow."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self._stop_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def ending() -> Iterator[ExitStack]:
    """Give a stack for the ends of processes; they all end with the block, also by Ctrl-C, SIGTERM and SIGHUP."""
    with _signals_as_exceptions(), ExitStack() as stack:
        try:
            yield stack
        finally:
            _ignore_signals()


def start_workers(stack: ExitStack, sims: Sequence[SimProcess]) -> None:
    """Start simulated workers at the same time; `stack` ends them.

    Raises:
        SimFailedToStart: one of them did not.
    """
    for sim in sims:
        stack.callback(sim.close)
    # Leaving the pool's block waits for every start, so no worker appears after the clean-up.
    with ThreadPoolExecutor(max_workers=len(sims)) as pool:
        list(pool.map(lambda sim: sim.start(), sims))


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, and put all handlers back at the end."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """Let an impatient second Ctrl-C not cut the clean-up short; it is bounded in time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
