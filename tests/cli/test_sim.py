"""Tests of the command that runs a simulated worker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_diffusion_routing.cli import main

SOURCES = Path(__file__).resolve().parents[2] / "src"
READY = "sim worker ready on http://127.0.0.1:"


@pytest.mark.core
def test_a_bad_flag_is_named_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--prot", "1"]) == 2
    assert capsys.readouterr().err == (
        "sglang-d-router: --prot is no flag of sglang-d-router sim; did you mean --port?\n"
    )


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_serves_until_a_signal_ends_it(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "sglang_diffusion_routing", "sim", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(READY)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode in {0, -number}
