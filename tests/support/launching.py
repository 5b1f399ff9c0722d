"""Launcher files for simulated workers, which a router starts as it starts real ones, and what is alive of them."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIMULATED = [sys.executable, "-m", "sglang_diffusion_routing", "sim"]
MARK = "LAUNCHED_BY_TEST"

FAMILY = """\
#!/bin/sh
# An engine with processes of its own: a child, one in another session, and one that has lost its parent as well.
sleep 1000 &
setsid sleep 1000 &
sh -c 'setsid sleep 1000 &'
exec "$@"
"""


def launcher_file(folder: Path, **keys: object) -> Path:
    """Write a launcher file; JSON is YAML."""
    wanted = {
        "model": "sim/model",
        "num_workers": 1,
        "num_gpus_per_worker": 0,
        # Below the range from which the system takes ports for connections; those that are taken are passed over.
        "worker_base_port": 21_000,
        "master_port_base": 23_000,
        "scheduler_port_base": 25_000,
        "internal_port_stride": 20,
        "worker_command": SIMULATED,
        "restart_delay": 0.1,
        "log_dir": str(folder / "logs"),
    }
    file = folder / "launcher.yaml"
    file.write_text(json.dumps({"launcher": {**wanted, **keys}}))
    return file


def family(folder: Path) -> list[str]:
    """Give the command of an engine with processes of its own."""
    script = folder / "engine"
    script.write_text(FAMILY)
    script.chmod(0o755)
    return [str(script), *SIMULATED]


class Marked:
    """Every process that a test's routers have started, known by a word in its environment.

    env: for `worker_env`.
    """

    def __init__(self) -> None:
        self._word = secrets.token_hex(16)
        self.env = {MARK: self._word}

    @property
    def alive(self) -> set[int]:
        """The guardians, the workers and what these have started."""
        found = set()
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if f"{MARK}={self._word}".encode() in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
        return found

    def kill(self) -> None:
        for pid in self.alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def marked() -> Iterator[Marked]:
    """Give a mark; nothing that has it outlives the block."""
    mark = Marked()
    try:
        yield mark
    finally:
        mark.kill()
