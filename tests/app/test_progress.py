"""Tests of the display of workers that are being started."""

import io
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from sglang_diffusion_routing.app.progress import clock, shown, table
from sglang_diffusion_routing.launchers.slots import Phase, SlotView
from support.launching import SIMULATED, launcher_file, marked
from support.router import SOURCES

pytestmark = pytest.mark.core


def slot(number: int, phase: Phase, *, reason: str = "", tail: tuple[str, ...] = ()) -> SlotView:
    return SlotView(number, phase, f"http://127.0.0.1:{number}", 1, 0, None, reason, 100.0 - number, {}, tail)


def text_of(*slots: SlotView, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(slots, 165.0))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_worker_a_line_with_the_last_thing_it_has_said() -> None:
    lines = text_of(
        slot(1, Phase.LOADING, tail=("shard 1 of 2", "shard 2 of 2 [bold]")),
        slot(2, Phase.READY),
        slot(3, Phase.BACKING_OFF, reason="ended with status 1", tail=("out of memory",)),
    ).splitlines()
    assert [line.split() for line in lines] == [
        ["worker", "phase", "for", "starts"],
        ["http://127.0.0.1:1", "loading", "1:06", "1", "shard", "2", "of", "2", "[bold]"],
        ["http://127.0.0.1:2", "ready", "1:07", "1"],
        ["http://127.0.0.1:3", "backing", "off", "1:08", "1", "ended", "with", "status", "1.", "out", "of", "memory"],
    ]


def test_a_long_line_does_not_break_the_table() -> None:
    lines = text_of(slot(1, Phase.LOADING, tail=("x" * 500,)), width=60).splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("…")


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00"), (67, "1:07"), (754, "12:34"), (3723, "1:02:03")])
def test_a_time_is_written_as_a_clock_does(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_where_nobody_looks_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger().handlers)
    with shown(None):
        pass
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger().handlers == before


def read_all(terminal: int) -> str:
    """Read what comes out of a terminal until nobody holds its other end."""
    read = bytearray()
    with suppress(OSError):
        while part := os.read(terminal, 65_536):
            read += part
    return read.decode()


@pytest.mark.e2e
def test_at_a_terminal_the_table_stands_below_the_log_until_the_workers_serve(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with marked() as mark:
        file = launcher_file(tmp_path, worker_command=[*SIMULATED, "--warmup-seconds", "2"], worker_env=mark.env)
        router = subprocess.Popen(
            [sys.executable, "-m", "sglang_diffusion_routing", "--port", "0", "--launcher-config", str(file)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "PYTHONPATH": str(SOURCES), "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(theirs)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read_all, ours)
            assert router.stdout is not None
            assert b"listening on" in router.stdout.readline()
            router.send_signal(signal.SIGTERM)
            assert router.wait(20) == 0
            shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", reading.result())
        router.stdout.close()
        os.close(ours)
    assert re.search(r"worker\s+phase\s+for\s+starts", shown)
    assert re.search(r"http://127\.0\.0\.1:\d+\s+loading\s+0:0\d", shown)
    assert "slot_loading" in shown
