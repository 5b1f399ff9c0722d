import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e


def run(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sglang_diffusion_routing.sim", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_help_names_the_flags() -> None:
    ran = run("--help")
    assert (ran.returncode, "--block-event-loop" in ran.stdout) == (0, True)


def test_a_bad_value_is_one_sentence_and_status_2() -> None:
    ran = run("--jitter", "2")
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", "--jitter 2.0: Input should be less than 1\n")
