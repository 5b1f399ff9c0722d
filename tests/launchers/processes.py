"""Real processes for the tests of launchers: commands, and what of them is alive."""

import os
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path

from sglang_diffusion_routing.launchers.process import Spec

FAMILY = """
import os, subprocess, sys, time
# A child, a child in a session of its own, and one whose parent has ended.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
subprocess.run([sys.executable, "-c", "import subprocess, sys; subprocess.Popen(['sleep', '1000'], start_new_session=True)"])
print("family of four", flush=True)
time.sleep(1000)
"""  # noqa: E501 - a program


def python(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


def spec(tmp_path: Path, *command: str, token: str = "", log_max_bytes: int = 2**20) -> Spec:
    return Spec(
        url="http://127.0.0.1:1",
        command=command,
        env=dict(os.environ),
        log=tmp_path / "logs" / "worker.log",
        log_max_bytes=log_max_bytes,
        token=token or secrets.token_hex(16),
        facts={"gpus": "0"},
    )


def alive(token: str) -> set[int]:
    """Find the processes, zombies aside, with a word in their environment."""
    found = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if token.encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
    return found


def end(token: str) -> None:
    """Kill whatever has a word, for tests that have failed."""
    for pid in alive(token):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
