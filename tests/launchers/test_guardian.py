"""Tests of the guardian's own parts; tests/launchers/test_process.py has it at work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_diffusion_routing.launchers import guardian
from sglang_diffusion_routing.launchers.guardian import Log, descendants

pytestmark = pytest.mark.loopback


def test_descendants_are_found_at_any_depth() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sh -c 'sleep 1000 & echo $!; wait' & wait"], stdout=subprocess.PIPE, start_new_session=True
    ) as root:
        assert root.stdout is not None
        deepest = int(root.stdout.readline())
        assert deepest in descendants(root.pid)
        assert len(descendants(root.pid)) == 2
        os.killpg(root.pid, 9)


def test_a_full_disk_costs_the_log_and_not_the_worker(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), 2**20)
    log._file = os.open("/dev/full", os.O_WRONLY)
    log.write(b"lost")


def test_it_stands_on_the_standard_library_alone() -> None:
    source = Path(guardian.__file__)
    run = subprocess.run([sys.executable, "-I", "-S", "-c", f"exec(open({str(source)!r}).read(), {{}})"], check=False)
    assert run.returncode == 0
