"""Child processes of a measurement: started, accounted and stopped by process id."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_S = 60.0


class Failed(Exception):
    """A measurement could not be made; the text says why."""


class Child:
    """A process and its descendants.

    Args:
        command: what to start.
        log: file that gets its output.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command = list(command)
        self.log = log
        with log.open("wb") as output:
            try:
                self._process = subprocess.Popen(self.command, stdout=output, stderr=subprocess.STDOUT)
            except OSError as error:
                raise Failed(f"{self.command[0]} cannot be started: {error.strerror}") from None

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`; raise Failed with the end of its log when it dies or takes too long."""
        deadline_s = time.monotonic() + START_S
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                tail = self.log.read_text(errors="replace")[-2000:]
                self.stop()
                raise Failed(f"{self.command[0]} did not start: {tail}")
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """List the process and all its descendants."""
        found, unread = [], [self._process.pid]
        while unread:
            pid = unread.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                unread.extend(int(child) for child in children.read_text().split())
        return found

    def cpu_s(self) -> float:
        """User and system time of the whole family so far."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS_PER_S

    def rss_bytes(self) -> int:
        return self._memory_bytes("VmRSS")

    def peak_rss_bytes(self) -> int:
        """Largest resident size since `reset_peak`."""
        return self._memory_bytes("VmHWM")

    def reset_peak(self) -> None:
        """Forget the peak (proc(5): 5 in clear_refs)."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        """End the process, gently first."""
        for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            if self._process.poll() is not None:
                return
            self._process.send_signal(number)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue

    def _memory_bytes(self, name: str) -> int:
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(name + ":"):
                    total += int(line.split()[1]) * 1024
        return total


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """Find a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
