"""Processes that nobody here is the parent of."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and that nobody has asked for does not (proc(5): stat)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def parent_of(pid: int) -> int:
    """Give the process that is the parent of a running one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
