"""A worker that is a process of its own, so that it can be stopped, continued and killed.

It reads a request, says so on its output, and answers when a line comes in: `python -m support.worker_process`.
"""

import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from support.exchange import Exchange
from support.worker import ScriptedWorker

TESTS = Path(__file__).resolve().parents[1]


class WorkerProcess:
    """The worker as its test sees it: `wait_for_request`, `let_answer`, and its `pid` for signals."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=TESTS,
        )
        self.url = self._read_line()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for_request(self) -> None:
        """Wait until a request has been read whole."""
        assert self._read_line() == "request"

    def let_answer(self) -> None:
        """Let the oldest unanswered request be answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()


def main() -> None:
    """Serve until the input ends."""
    may_answer = threading.Semaphore(0)

    def answer_when_told(exchange: Exchange) -> None:
        _ = exchange.body
        print("request", flush=True)  # noqa: T201
        may_answer.acquire()
        exchange.answer(body=b"from a process")

    with ScriptedWorker() as worker:
        worker.handler = answer_when_told
        print(worker.url, flush=True)  # noqa: T201
        for _ in sys.stdin:
            may_answer.release()


if __name__ == "__main__":
    main()
