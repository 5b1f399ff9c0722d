"""The demo as a person runs it."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image

from support.deadlines import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SOURCES = Path(__file__).resolve().parents[2] / "src"


def _heed_ctrl_c() -> None:
    """Undo what a shell does to its background jobs, which ignore SIGINT and let their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def demo(out: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "sglang_diffusion_routing", "demo", "--out", str(out), *words]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "COLUMNS": "100"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - no threads here
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_demo_shows_that_every_sample_ran_on_the_right_weights(tmp_path: Path) -> None:
    with demo(tmp_path, "--workers", "2", "--count", "6", "--samples", "2", "--seed", "3") as process:
        output, errors = process.communicate(timeout=90)
    assert (process.returncode, errors) == (0, ""), output
    claims = [line.removeprefix("  ✓ ") for line in output.splitlines() if line.startswith("  ✓ ")]
    assert [claim.split(" (")[0] for claim in claims] == [
        "rollout 1 gave every prompt its samples",
        "every sample of rollout 1 ran on weights '0'",
        "rollout 1 used every worker",
        "a rollout is refused while all workers sleep",
        "every worker holds the new checkpoint, bit for bit",
        "rollout 2 gave every prompt its samples",
        "every sample of rollout 2 ran on weights 'step-1'",
        "rollout 2 used every worker",
        "no request is left on any worker",
    ]
    assert "✗" not in output


def test_the_demo_leaves_its_files(tmp_path: Path) -> None:
    with demo(tmp_path, "--workers", "1", "--count", "2", "--samples", "2") as process:
        output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    with (tmp_path / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rollout"], row["prompt"], row["sample"], row["weight_version"]) for row in rows] == [
        (rollout, prompt, sample, version)
        for rollout, version in (("1", "0"), ("2", "step-1"))
        for prompt in ("1", "2")
        for sample in ("1", "2")
    ]
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.width >= 2 * 128
        assert len(sheet.getcolors(maxcolors=2**24) or []) > 1_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_all_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path, "--workers", "2", "--samples", "16") as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("start"):
            assert process.poll() is None
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == 3
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors == ""
    eventually(lambda: [child for child in started if child.is_running()], lambda left: left == [])


def test_a_bad_option_is_named_in_one_sentence(tmp_path: Path) -> None:
    with demo(tmp_path, "--samples", "1") as process:
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (
        2,
        "",
        "sglang-d-router: --samples must be a whole number from 2 to 64, not '1'\n",
    )
