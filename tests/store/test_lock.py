"""One router has a state file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_diffusion_routing.errors import StateInUse
from sglang_diffusion_routing.store.lock import Lock


def test_whoever_comes_second_is_told_who_has_it(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path / "state.db")
    with pytest.raises(StateInUse) as caught:
        Lock.take(tmp_path / "state.db")
    assert caught.value.message == (
        f"state file {tmp_path}/state.db is in use by another router (process {os.getpid()}); "
        "each router needs a --state FILE of its own"
    )
    lock.release()
    lock.release()
    Lock.take(tmp_path / "state.db").release()


def test_the_kernel_gives_it_up_for_a_process_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from sglang_diffusion_routing.store.lock import Lock\n"
        "lock = Lock.take(pathlib.Path(sys.argv[1]))\n"
        "print('taken', flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "state.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"taken\n"
        with pytest.raises(StateInUse, match=f"process {holder.pid}"):
            Lock.take(tmp_path / "state.db")
        holder.kill()
        holder.wait(10)
        Lock.take(tmp_path / "state.db").release()


def test_a_lock_that_names_nobody_is_still_one(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path / "state.db")
    (tmp_path / "state.db.lock").write_bytes(b"")
    with pytest.raises(StateInUse, match=r"in use by another router; each"):
        Lock.take(tmp_path / "state.db")
    lock.release()


def test_a_lock_whose_file_was_removed_keeps_nobody_out(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path / "state.db")
    (tmp_path / "state.db.lock").unlink()
    other = Lock.take(tmp_path / "state.db")
    lock.release()
    other.release()


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    Lock.take(tmp_path / "state.db").release()
    assert (tmp_path / "state.db.lock").stat().st_mode & 0o777 == 0o600
