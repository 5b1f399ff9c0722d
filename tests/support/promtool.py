"""Prometheus's own checker of files, where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed; Debian has it in the package prometheus"
)


def promtool(*words: str | Path, given: bytes = b"") -> str:
    """Run it, and give what it says; fail with that when it finds a fault."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *map(str, words)], input=given, capture_output=True, timeout=50, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said
