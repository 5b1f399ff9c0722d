"""Run one worker as a process of this machine, behind a guardian that leaves nothing of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sglang_diffusion_routing.launchers import guardian
from sglang_diffusion_routing.launchers.base import Ended, Fact, LaunchFailed
from sglang_diffusion_routing.launchers.leftovers import TOKEN, kill_leftovers
from sglang_diffusion_routing.tasks import spawn

START_LIMIT_S = 30.0
TAIL_LINES = 20
_TAIL_BYTES = 16_384
_GUARDIAN = str(Path(guardian.__file__).resolve())


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run.

    env: the whole environment. log: file of its output; the one of the run before becomes `NAME.1`.
    token: a word that no other process on this machine has in its environment, to find what may be left of it.
    facts: what is worth showing of it. through: a command that starts the guardian, where it cannot be a child.
    """

    url: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    log_max_bytes: int
    token: str
    facts: Mapping[str, Fact]
    through: Sequence[str] = ()


class WorkerProcess:
    """A worker that runs here (`base.Launched`)."""

    def __init__(self, spec: Spec, guard: asyncio.subprocess.Process, control: socket.socket, pid: int) -> None:
        self._spec = spec
        self._guard = guard
        self._control = control
        self._pid: int | None = pid
        self._ended: asyncio.Task[Ended]

    @classmethod
    async def start(cls, spec: Spec) -> WorkerProcess:
        """Start the guardian and, through it, the worker; returns when the worker's process runs.

        Cancelled, it returns when nothing of them is left.

        Raises:
            LaunchFailed: it could not be started.
        """
        # Begun, it is ended in order: a guardian that is killed while it starts the worker would leave some of it.
        starting = spawn(cls._start(spec), name="worker-start", on_error=_told_to_the_caller)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(LaunchFailed):
                started = await starting
                started.kill()
                await started.wait()
            raise

    @classmethod
    async def _start(cls, spec: Spec) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            guard = await _start_guardian(spec, theirs)
        except OSError as error:
            ours.close()
            raise LaunchFailed(f"could not be started: {error.strerror or error}") from None
        finally:
            theirs.close()
        reader = asyncio.StreamReader()
        feeding = spawn(_feed(ours, reader), name="worker-guardian")
        try:
            async with asyncio.timeout(START_LIMIT_S):
                word, _, rest = (await reader.readline()).decode().strip().partition(" ")
        except BaseException:
            ours.close()  # the guardian leaves nothing
            feeding.cancel()
            raise
        if word != "started":
            ours.close()
            await guard.wait()
            raise LaunchFailed(f"could not be started: {rest or 'its guardian ended'}: {spec.command[0]}")
        started = cls(spec, guard, ours, int(rest))
        started._ended = spawn(started._watch(reader), name="worker-process")
        return started

    @property
    def url(self) -> str:
        return self._spec.url

    @property
    def pid(self) -> int | None:
        return self._pid

    @property
    def log(self) -> str | None:
        return str(self._spec.log)

    def facts(self) -> Mapping[str, Fact]:
        return self._spec.facts

    def tail(self, lines: int) -> tuple[str, ...]:
        return tail_of(self._spec.log, lines)

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def terminate(self, grace_s: float) -> Ended:
        with suppress(OSError):
            self._control.send(b"t")
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.kill()
        return await self.wait()

    def kill(self) -> None:
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    async def _watch(self, reader: asyncio.StreamReader) -> Ended:
        """Take in how it ended, and make sure that it is true."""
        word, _, rest = (await reader.readline()).decode().strip().partition(" ")
        self._pid = None
        await self._guard.wait()
        self._control.close()
        if word == "ended":
            status, left = map(int, rest.split())
            reason = describe(status)
        else:
            # The guardian was killed. The worker's first process went with it; others may have stayed.
            left = await asyncio.to_thread(kill_leftovers, self._spec.token)
            reason = "was killed with its guardian"
        if left:
            reason += f"; {left} of its processes would not die"
        return Ended(reason, self.tail(TAIL_LINES))


def _told_to_the_caller(_error: BaseException) -> None:
    """Leave the error to whoever awaits the task."""


async def _start_guardian(spec: Spec, control: socket.socket) -> asyncio.subprocess.Process:
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    return await asyncio.create_subprocess_exec(
        *spec.through,
        sys.executable,
        # Isolated, and without site-packages: it must start fast, and whatever the worker's environment says.
        "-I",
        "-S",
        _GUARDIAN,
        str(control.fileno()),
        str(spec.log),
        str(spec.log_max_bytes),
        *spec.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=(control.fileno(),),
        start_new_session=True,  # Ctrl-C in the router's terminal is for the router
        env={**spec.env, TOKEN: spec.token},
    )


async def _feed(control: socket.socket, reader: asyncio.StreamReader) -> None:
    """Pass on what the guardian says, until it ends."""
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.sock_recv(control, 4096):
            reader.feed_data(data)
    except OSError:
        pass
    finally:
        reader.feed_eof()


def describe(status: int) -> str:
    """Say in half a sentence how a process ended, by its status as waitpid(2) has it."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def tail_of(log: Path, lines: int) -> tuple[str, ...]:
    """Give the last lines of a file, oldest first; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            text = file.read(_TAIL_BYTES)
    except OSError:
        return ()
    whole = text.decode(errors="replace").splitlines()
    # The first may have lost its beginning.
    return tuple(whole[1:] if size > _TAIL_BYTES else whole)[-lines:]
