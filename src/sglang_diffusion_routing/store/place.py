"""Where a router's state lies, and whether that is a place for a database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

NETWORK = frozenset(
    {
        "afs", "auristorfs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs",
        "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "wekafs",
        "fuse.beegfs", "fuse.ceph-fuse", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.mfs",
        "fuse.quobyte", "fuse.rclone", "fuse.s3fs", "fuse.seaweedfs", "fuse.sshfs",
    }
)  # fmt: skip
"""File systems that other machines share: their locks cannot be relied on (sqlite.org/howtocorrupt.html §2)."""

_HOST_AND_PATH = re.compile(r"[^/]+:/.*")
_OCTAL = re.compile(r"\\([0-7]{3})")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")


def default_path(environ: Mapping[str, str], hostname: str, host: str, port: int) -> Path | None:
    """Give the state file of the router at this address, after the XDG Base Directory Specification.

    The machine's name is part of it, since many machines may share one home directory. None if there is no home.
    """
    base = environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None
        base = f"{home}/.local/state"
    return Path(base) / "sglang-d-router" / (_UNFIT.sub("_", f"{hostname}-{host}-{port}") + ".db")


def network_filesystem(path: Path, mountinfo: str) -> str | None:
    """Give the type of the file system that holds `path` if other machines share it.

    Args:
        path: absolute, without symbolic links; it need not exist.
        mountinfo: as /proc/self/mountinfo has it (proc_pid_mountinfo(5)).
    """
    found, depth = None, -1
    for line in mountinfo.splitlines():
        left, dash, right = line.partition(" - ")
        if not dash:
            continue
        point = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), left.split(" ")[4]))
        kind, device, *_ = right.split(" ")
        # Of two mounts at one point the later hides the earlier.
        if path.is_relative_to(point) and len(point.parts) >= depth:
            depth = len(point.parts)
            found = kind if _is_network(kind, _OCTAL.sub(lambda code: chr(int(code[1], 8)), device)) else None
    return found


def _is_network(kind: str, device: str) -> bool:
    """Go by the type, and else by a device that names a machine: `host:/path`, `//host/share`."""
    return kind in NETWORK or device.startswith("//") or _HOST_AND_PATH.fullmatch(device) is not None
