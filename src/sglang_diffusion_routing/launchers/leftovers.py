"""Find and kill what a router that vanished has left of its workers, and nothing else.

Every process that a launcher starts has a word in its environment that no other process has: 128 random bits that the
router drew when it started, and the worker's slot. What such a process starts inherits the word, so nobody is known by
a name or by a process id that may be another's by now. A router writes its word to a file, and holds a lock on that
file for as long as it lives; a file without a lock is that of a router that is gone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sglang_diffusion_routing.errors import BadSetting

TOKEN = "SGLD_WORKER_OF"  # noqa: S105 - the name of an environment variable
"""Not with the prefix of the router's own variables: the worker may be of this package."""

KILL_LIMIT_S = 10.0
_SUFFIX = ".run"
_PROC = Path("/proc")


class Run:
    """One run of a router, as those after it know it.

    Attributes:
        token: the word of this run; each worker's is this with `/SLOT` behind it.
        swept: processes that earlier runs had left, and that were killed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Kill what earlier runs have left, and leave word of this one.

        Raises:
            BadSetting: the folder is not this user's own.
        """
        folder = own_folder() if folder is None else folder
        self.token = secrets.token_hex(16)
        self._path = folder / f"{self.token}{_SUFFIX}"
        # One lock for the folder: nobody finds this run's file before it is locked, and takes it for a dead one's.
        with _locked(folder / "lock"):
            self.swept = sum(_sweep(path) for path in sorted(folder.glob(f"*{_SUFFIX}")))
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def token_of(self, slot: int) -> str:
        """Give the word of one worker."""
        return f"{self.token}/{slot}"

    def close(self) -> None:
        """End the run: nothing of it is left; safe to repeat."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def own_folder() -> Path:
    """Give a folder on this machine that nobody else can write to."""
    folder = Path(tempfile.gettempdir()) / f"sglang-d-launcher-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise BadSetting(str(folder), "is not a folder of this user alone, and the launcher keeps its files there")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(path: Path) -> int:
    """Kill what the run of this file has left, if it is over."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            killed = len(_holders(path.name.removesuffix(_SUFFIX)))
            if kill_leftovers(path.name.removesuffix(_SUFFIX)) == 0:
                path.unlink(missing_ok=True)
            return killed
    except OSError:  # it is another's run, or has just gone
        return 0


def kill_leftovers(token: str, limit_s: float = KILL_LIMIT_S) -> int:
    """Kill every process with this word, or with it and `/SLOT`, in its environment, and what is under or beside it.

    Blocks until they are gone, at most `limit_s`.

    Returns:
        The number of those that would not die.
    """
    deadline_s = time.monotonic() + limit_s
    while pids := _holders(token):
        if time.monotonic() > deadline_s:
            return len(pids)
        with ExitStack() as held:
            for descriptor in _stopped(token, held).values():
                _send(descriptor, signal.SIGKILL)
        time.sleep(0.02)
    return 0


def _stopped(token: str, held: ExitStack) -> dict[int, int]:
    """Stop all processes of a run before any is killed, so that none loses the parent by which it is known.

    Returns:
        A descriptor of each by its id: it holds on to the process that was looked at, whoever has the id later.
    """
    descriptors: dict[int, int] = {}
    while new := _holders(token) - descriptors.keys():
        for pid in new:
            with suppress(OSError):
                descriptors[pid] = descriptor = os.pidfd_open(pid)
                held.callback(os.close, descriptor)
        # Whoever is still meant now was so when its descriptor was opened.
        meant = _holders(token)
        for pid in new & descriptors.keys():
            if pid in meant:
                _send(descriptors[pid], signal.SIGSTOP)
            else:
                del descriptors[pid]
        if not new & descriptors.keys():
            break
    return descriptors


def _send(descriptor: int, number: signal.Signals) -> None:
    with suppress(OSError):
        signal.pidfd_send_signal(descriptor, number)


def _holders(token: str) -> set[int]:
    """Find the processes of a run: those with its word, and whatever shares a session with them or is under them.

    A program that writes over its own environment, as those that set their title do, loses the word and not these.
    """
    stats = dict(_stats())
    found = {pid for pid in stats if _has_word(pid, token)}
    sessions = {stats[pid].session for pid in found}
    found |= {pid for pid, facts in stats.items() if facts.session in sessions}
    grown = True
    while grown:
        below = {pid for pid, facts in stats.items() if facts.parent in found} - found
        found |= below
        grown = bool(below)
    return {pid for pid in found if stats[pid].alive}


def _has_word(pid: int, token: str) -> bool:
    try:
        environ = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    word = f"{TOKEN}={token}".encode()
    return any(entry == word or entry.startswith(word + b"/") for entry in environ.split(b"\0"))


class _Stat:
    """A process's state, parent and session (proc(5): fields 3, 4 and 6 of stat)."""

    __slots__ = ("alive", "parent", "session")

    def __init__(self, text: bytes) -> None:
        fields = text.rpartition(b")")[2].split()
        self.alive = fields[0] not in {b"Z", b"X"}
        self.parent = int(fields[1])
        self.session = int(fields[3])


def _stats() -> Iterator[tuple[int, _Stat]]:
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                yield int(folder.name), _Stat((folder / "stat").read_bytes())
