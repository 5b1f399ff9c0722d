"""The benchmarks as a person runs them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.deadlines import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

SOURCES = Path(__file__).resolve().parents[2] / "src"


def _heed_ctrl_c() -> None:
    """Undo what a shell does to its background jobs, which ignore SIGINT and let their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--num-workers", "2", "--num-prompts", "1000", "--simulated-seconds", "1"],
        ["policies", "--scenario", "larger-replies", "--scale", "1"],
    ],
    ids=lambda words: str(words[0]),
)
def test_a_signal_ends_a_benchmark_and_all_that_it_started(
    tmp_path: Path, words: list[str], number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sglang_diffusion_routing", "bench", *words, "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - no threads here
    ) as process:
        try:
            workers = 2 if words[0] == "serve" else 4
            bench = psutil.Process(process.pid)
            started = eventually(
                lambda: bench.children(recursive=True), lambda now: len(now) == workers + 1, within_s=30.0
            )
            # Its load has begun: only that connects to anybody.
            eventually(lambda: [c for c in bench.net_connections() if c.status == "ESTABLISHED"], lambda now: now != [])
            process.send_signal(number)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, errors) == (128 + number, "")
    eventually(lambda: [child for child in started if child.is_running()], lambda left: left == [])
