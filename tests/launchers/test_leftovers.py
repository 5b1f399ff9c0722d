"""Tests of the sweep: what a router that vanished has left is killed, and nothing else."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.processes import alive
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers import leftovers
from sglang_diffusion_routing.launchers.leftovers import TOKEN, Run, kill_leftovers
from support.deadlines import eventually

pytestmark = pytest.mark.loopback

# It starts another in a session of its own that has not the word, as one that has written over its environment.
WORKER = """
import subprocess, sys, time
subprocess.Popen(["sleep", "1000"], env={"ANOTHER": sys.argv[1]}, start_new_session=True)
print("up", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def worker(word: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, word],
        env={**os.environ, TOKEN: word},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def abandoned(folder: Path) -> Run:
    """Leave a run's file as a router does that is killed: it is there, and nobody holds its lock."""
    run = Run(folder)
    os.close(run._file)
    return run


def test_the_next_router_kills_what_the_last_one_left(tmp_path: Path, started: list["subprocess.Popen[bytes]"]) -> None:
    run = abandoned(tmp_path)
    started += [worker(run.token_of(0)), worker(run.token_of(1))]
    assert len(alive(run.token)) == 4
    after = Run(tmp_path)
    assert after.swept == 4
    eventually(lambda: alive(run.token), lambda pids: pids == set())
    assert [path.name for path in tmp_path.glob("*.run")] == [f"{after.token}.run"]
    after.close()
    assert list(tmp_path.glob("*.run")) == []
    after.close()


def test_what_a_living_router_has_is_not_touched(tmp_path: Path, started: list["subprocess.Popen[bytes]"]) -> None:
    run = Run(tmp_path)
    started.append(worker(run.token_of(0)))
    another = Run(tmp_path)
    assert another.swept == 0
    assert len(alive(run.token)) == 2
    assert kill_leftovers(run.token) == 0
    another.close()
    run.close()


def test_a_word_that_only_begins_alike_is_another(started: list["subprocess.Popen[bytes]"]) -> None:
    word = secrets.token_hex(16)
    started.append(worker(f"{word}/10"))
    for other in (word[:-1], f"{word}/1", word[1:], word.upper() + "x"):
        assert kill_leftovers(other) == 0
    assert len(alive(word)) == 2
    assert kill_leftovers(word) == 0
    eventually(lambda: alive(word), lambda pids: pids == set())


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers.tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"sglang-d-launcher-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(BadSetting, match="is not a folder of this user alone"):
        Run()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(BadSetting, match="is not a folder of this user alone"):
        Run()
    folder.unlink()
    Run().close()
    assert folder.stat().st_mode & 0o777 == 0o700
