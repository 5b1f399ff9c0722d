"""Stand between the router and one worker, and leave nothing of the worker when either ends. A script of its own.

    python -I -S guardian.py CONTROL_FD LOG LOG_MAX_BYTES COMMAND...

It starts COMMAND, writes its output to LOG, and ends when nothing of the worker is left. The router is at the other end
of the socket CONTROL_FD: `t` asks the worker to end, the socket's end (also by the router's SIGKILL) kills everything.
It says `started PID`, then `ended STATUS LEFT`, or `failed REASON`, a line each. STATUS is as waitpid(2) has it, LEFT
the number of processes that would not die.

As a subreaper (prctl(2)) it inherits whatever descendant loses its parent, in whichever process group or session, so
"no child left" means that nothing is left. Should the guardian itself be killed, the worker's first process gets
SIGKILL from the kernel. The script needs the standard library alone, so that it is up in some milliseconds.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The router decides when a worker ends, not a signal to the whole of a terminal or a service."""

KILL_LIMIT_S = 30.0
"""A process in the kernel's hands (a driver, a dead file system) may not die at all."""

_LOOK_AGAIN_S = 0.02
_SPAN_BYTES = 65_536


class Log:
    """A file with a bound: at its limit it becomes `NAME.1` and a new one begins; what cannot be written is dropped."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file = self._begin()
        self._size = 0

    def _begin(self) -> int:
        with contextlib.suppress(OSError):
            os.replace(self._path, f"{self._path}.1")  # noqa: PTH105 - pathlib costs the script its start
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._max_bytes:
                os.close(self._file)
                self._file = self._begin()
                self._size = 0
            self._size += len(data)
            while data:
                data = data[os.write(self._file, data) :]


def descendants(root: int) -> list[int]:
    """List every process under `root`, however deep."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    unseen = [root]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Give each process with its parent (proc(5): stat; the name in field 2 may hold anything)."""
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
                yield int(name), int(stat.read().rpartition(b")")[2].split()[1])


class Guardian:
    """One worker, from its start until nothing of it is left."""

    def __init__(self, control: int, log: Log, command: list[str]) -> None:
        self._control = control
        self._log = log
        self._output, inlet = os.pipe()
        os.set_blocking(self._output, False)
        self._status: int | None = None
        self._children, self._wake = os.pipe()
        os.set_blocking(self._children, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        try:
            self._pid = _start(command, inlet)
        finally:
            os.close(inlet)

    def run(self) -> None:
        """Watch until the worker or the router ends, and then leave nothing."""
        self._say(f"started {self._pid}")
        poll = select.poll()
        for descriptor in (self._control, self._children, self._output):
            poll.register(descriptor, select.POLLIN)
        wanted = True
        while wanted and self._status is None:
            for descriptor, _ in poll.poll():
                if descriptor == self._control:
                    wanted = self._obey()
                elif descriptor == self._output:
                    if not self._copy():
                        poll.unregister(self._output)
                else:
                    self._reap()
        left = self._kill_all()
        while self._copy():
            pass
        self._say(f"ended {0 if self._status is None else self._status} {left}")

    def _obey(self) -> bool:
        """Take what the router says; False when everything is to end."""
        try:
            order = os.read(self._control, 16)
        except OSError:
            order = b""
        if order and self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
        return bool(order)

    def _copy(self) -> bool:
        """Write to the log what the worker has said; False when there is nothing, or nobody left to say anything."""
        try:
            data = os.read(self._output, _SPAN_BYTES)
        except OSError:
            return False
        self._log.write(data)
        return bool(data)

    def _reap(self) -> bool:
        """Take in who has ended; False when no child is left."""
        with contextlib.suppress(OSError):
            os.read(self._children, _SPAN_BYTES)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = status

    def _kill_all(self) -> int:
        """Kill every descendant, and give the number of those that would not die."""
        deadline_s = time.monotonic() + KILL_LIMIT_S
        while self._reap():
            pids = descendants(os.getpid())
            if time.monotonic() > deadline_s:
                return len(pids)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            select.select([self._children], [], [], _LOOK_AGAIN_S)
            self._copy()
        return 0

    def _say(self, line: str) -> None:
        say(self._control, line)


def say(control: int, line: str) -> None:
    """Tell the router, if it is there."""
    with contextlib.suppress(OSError):
        os.write(control, f"{line}\n".encode(errors="replace"))


def _start(command: list[str], inlet: int) -> int:
    """Start the worker in a process group of its own, to be killed by the kernel when this process ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guardian = os.getpid()

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guardian:  # it ended before the line above
            os._exit(1)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(  # noqa: S603 - the command is the operator's
        command,
        stdin=subprocess.DEVNULL,
        stdout=inlet,
        stderr=inlet,
        process_group=0,
        preexec_fn=before_exec,  # noqa: PLW1509 - this process has one thread
    )
    process.returncode = 0  # it is reaped here, with all others, and not by the module
    return process.pid


def main(arguments: list[str]) -> None:
    """Run as the command line says."""
    control, path, max_bytes = int(arguments[0]), arguments[1], int(arguments[2])
    os.set_inheritable(control, False)
    try:
        guardian = Guardian(control, Log(path, max_bytes), arguments[3:])
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
        say(control, f"failed {reason}")
        return
    guardian.run()


if __name__ == "__main__":
    main(sys.argv[1:])
