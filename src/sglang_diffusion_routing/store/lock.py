"""Keep two routers from one state file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sglang_diffusion_routing.errors import StateInUse


class Lock:
    """An advisory lock on a file beside the state; the kernel gives it up when the process ends, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, state: Path) -> Lock:
        """Lock `state` by the file `state`.lock, which holds the process id of whoever has it and is never removed.

        Raises:
            StateInUse: another process has it.
            OSError: the file cannot be made.
        """
        path = f"{state}.lock"
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_still(path, fd):
                    os.truncate(fd, 0)
                    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                    return cls(fd)
            except BlockingIOError:
                holder = os.pread(fd, 32, 0).strip()
                os.close(fd)
                raise StateInUse(str(state), int(holder) if holder.isdigit() else None) from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def release(self) -> None:
        """Let others have it; safe to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_still(path: str, fd: int) -> bool:
    """Tell whether the file that was locked is the one of that name: somebody may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), Path(path).stat())
    except FileNotFoundError:
        return False
