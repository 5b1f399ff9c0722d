"""The router as a process, as a person starts it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from support.client import ask, request
from support.deadlines import PATIENCE_S, eventually
from support.worker import ScriptedWorker

SOURCES = Path(__file__).resolve().parents[2] / "src"
LISTENING = re.compile(r"listening on https?://\S+:([0-9]+)")
START_S = 30.0
"""A cold start imports FastAPI and pydantic, on two cores shared with the other tests."""


class RouterProcess:
    """`python -m sglang_diffusion_routing` on a free loopback port, ready when the constructor returns.

    Args:
        worker_urls: for --worker-urls.
        flags: further flags.
        open_files: soft and hard limit on file descriptors.
        start_s: how long it may take until it listens.
    """

    def __init__(
        self,
        worker_urls: Sequence[str] = (),
        *flags: str,
        open_files: int | None = None,
        start_s: float = START_S,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="router-test-")
        self._stderr = Path(self._folder.name) / "stderr"
        command = [sys.executable, "-m", "sglang_diffusion_routing", "--host", "127.0.0.1", "--port", "0"]
        if worker_urls:
            command += ["--worker-urls", *worker_urls]
        if open_files is not None:
            command = ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), "XDG_STATE_HOME": self._folder.name}
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=stderr, env=environment)
        self._lines: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read_stdout, daemon=True)
        self._reader.start()
        self.port = self._wait_for_port(start_s)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> list[str]:
        """The lines on its standard output so far."""
        return [line.rstrip("\n") for line in self._lines]

    def kill(self) -> None:
        """End the process as the kernel does: it does nothing more."""
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def get(self, path: str) -> Any:
        """GET a control route and decode its JSON."""
        return ask(self.port, request(b"GET", path.encode())).json()

    def in_flight(self) -> dict[str, int]:
        """Count the live leases of each worker."""
        return {worker["url"]: worker["active_requests"] for worker in self.get("/workers")["workers"]}

    def queued(self) -> int:
        """Count the requests that wait for a worker."""
        metrics = ask(self.port, request(b"GET", b"/metrics")).body.decode()
        match = re.search(r"^sgld_router_queue_requests ([0-9.]+)$", metrics, re.MULTILINE)
        assert match is not None, metrics
        return int(float(match[1]))

    def statuses(self) -> dict[str, str]:
        return {worker["url"]: worker["status"] for worker in self.get("/workers")["workers"]}

    def wait_until_healthy(self, workers: int) -> None:
        """Wait until this many workers have answered a probe."""
        eventually(lambda: self.get("/health"), lambda health: health["healthy_workers"] == workers)

    def revive(self, url: str) -> None:
        """End a quarantine now; by itself it ends with the next probe, which comes later and later."""
        body = b'{"is_dead": false}'
        reply = ask(
            self.port, request(b"PUT", b"/workers/" + url.encode(), b"Content-Type: application/json", body=body)
        )
        assert reply.status == 200, reply

    def wait_until_idle(self) -> None:
        """Wait until no lease is left."""
        eventually(self.in_flight, lambda counts: not any(counts.values()))

    def rss_bytes(self) -> int:
        return self._status_kib("VmRSS") * 1024

    def peak_rss_bytes(self) -> int:
        return self._status_kib("VmHWM") * 1024

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def is_running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, *, within_s: float = PATIENCE_S) -> int:
        """Wait for the process to end and give its exit status."""
        return self._process.wait(within_s)

    def stop(self, *, within_s: float = 2.0) -> None:
        """End the process, by SIGTERM and, if it holds on, SIGKILL."""
        if self.is_running():
            self._process.terminate()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_for_port(self, start_s: float) -> int:
        eventually(lambda: self._listening.is_set() or not self.is_running(), lambda decided: decided, within_s=start_s)
        if not self._listening.is_set():
            error = self.stderr()
            self.stop()
            raise AssertionError(f"the router did not start: {error}")
        match = LISTENING.search("".join(self._lines))
        assert match is not None
        return int(match[1])

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.decode(errors="replace"))
            if LISTENING.search(self._lines[-1]):
                self._listening.set()

    def _status_kib(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
        raise AssertionError(f"no {name} in /proc/{self.pid}/status")


@contextmanager
def idle(router: RouterProcess, worker: ScriptedWorker) -> Iterator[None]:
    """Begin and end without a lease; at the end no request is left that nobody received."""
    router.wait_until_idle()
    yield
    unexpected = worker.drop_arrivals()
    worker.hang_up()
    assert unexpected == []
    router.wait_until_idle()
