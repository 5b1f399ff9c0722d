"""Processes by the hundred: one process imports everything once, and forks a child for each that a test asks for.

A forked router or simulated worker is a process like any other (it is killed, stopped and restarted by its id) and
starts in milliseconds instead of a second. `Nursery` is the tests' side; `python -m support.nursery` the other one.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from support.deadlines import PATIENCE_S

TESTS = Path(__file__).resolve().parents[1]
SOURCES = TESTS.parent / "src"

Program = Callable[[Sequence[str]], int]


class Child:
    """One forked process. Its output, both streams, is in a file of its own.

    It stays a zombie until it has been waited for, so that its id cannot mean another process meanwhile.
    """

    def __init__(self, nursery: "Nursery", pid: int, output: Path) -> None:
        self.pid = pid
        self._nursery = nursery
        self._output = output
        self._pidfd: int | None = os.pidfd_open(pid)
        self.returncode: int | None = None

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def is_running(self) -> bool:
        return not self._has_ended(0.0)

    def signal(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End it with SIGKILL, also when it is stopped, and wait for that."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, *, within_s: float = PATIENCE_S) -> int:
        """Wait for its end and give its exit status, negative for a signal."""
        if self.returncode is None:
            assert self._has_ended(within_s), f"process {self.pid} still runs after {within_s:g} s"
            assert self._pidfd is not None
            os.close(self._pidfd)
            self._pidfd = None
            self.returncode = self._nursery.reap(self.pid)
        return self.returncode

    def _has_ended(self, within_s: float) -> bool:
        if self._pidfd is None:
            return True
        ready, _, _ = select.select([self._pidfd], [], [], within_s)
        return bool(ready)


class Nursery:
    """Starts children; as a context manager it ends every one that is left."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="router-nursery-")
        self.folder = Path(self._folder.name)
        path = os.pathsep.join([str(SOURCES), str(TESTS)])
        own = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "XDG_STATE_HOME": str(self.folder)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **own},
        )
        self._started = 0

    def new_folder(self) -> Path:
        """Make a folder that lasts as long as the nursery."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def start(self, program: str, *argv: str) -> Child:
        """Start one of `PROGRAMS`."""
        self._started += 1
        output = self.folder / f"{program}-{self._started}.out"
        output.touch()
        return Child(self, self._ask(program=program, argv=argv, output=str(output)), output)

    def reap(self, pid: int) -> int:
        """Give the exit status of a child that has ended."""
        return self._ask(reap=pid)

    def close(self) -> None:
        """End the nursery, and with it its children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, **order: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery has ended"
        return int(answer)


def serve(programs: dict[str, Program]) -> None:
    """Fork and reap as the orders on the input say; at its end, kill what is left."""
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "reap" in order:
            _, status = os.waitpid(order["reap"], 0)
            children.discard(order["reap"])
            print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201
            continue
        pid = os.fork()
        if pid == 0:
            _become(programs[order["program"]], order["argv"], order["output"])
        children.add(pid)
        print(pid, flush=True)  # noqa: T201
    for pid in children:
        os.kill(pid, signal.SIGKILL)  # zombies take it too
        os.waitpid(pid, 0)


def _become(program: Program, argv: Sequence[str], output: str) -> None:
    """Be the child: its own process group, output and end."""
    status = 1
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        written = os.open(output, os.O_WRONLY | os.O_APPEND)
        os.dup2(written, 1)
        os.dup2(written, 2)
        status = program(argv)
    except BaseException:  # noqa: BLE001  (the boundary of a process)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Import what children need, and serve."""
    import sglang_diffusion_routing.sim.server  # noqa: F401  (before the first fork, as all of these)
    from sglang_diffusion_routing import app, cli  # noqa: F401
    from sglang_diffusion_routing.cli import serve as serve_command  # noqa: F401
    from support.unfenced import run_unfenced

    serve({"router": cli.main, "sim": lambda argv: cli.main(["sim", *argv]), "unfenced": run_unfenced})


if __name__ == "__main__":
    main()
