"""Tests of workers that are started for a benchmark: simulated ones, through the real launcher."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from sglang_diffusion_routing.cli.bench import serve
from sglang_diffusion_routing.cli.bench.launched import Launcher, launched
from sglang_diffusion_routing.cli.bench.options import parse_serve
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.processes import RouterFailed, ending

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def launcher_file(folder: Path, **changes: object) -> Path:
    wanted = {
        "model": "sd3",
        "num_workers": 2,
        "num_gpus_per_worker": 0,
        "worker_command": [sys.executable, "-m", "sglang_diffusion_routing", "sim", "--overhead-seconds", "0"],
        "log_dir": str(folder),
        "wait_timeout": 60,
        **changes,
    }
    file = folder / "launcher.yaml"
    file.write_text(json.dumps({"launcher": wanted}))
    return file


def test_launched_workers_are_loaded_and_end_with_the_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(psutil.Process().children(recursive=True))
    size = "--width 16 --height 16 --num-inference-steps 1 --num-prompts 6 --max-concurrency 3 --json"
    words = ["--launcher-config", str(launcher_file(tmp_path)), "--num-workers", "1,2", *size.split()]
    assert serve.run(parse_serve(words), Report(as_json=True)) == 0
    captured = capsys.readouterr()
    runs = json.loads(captured.out)
    assert [(run["num_workers"], run["completed_requests"], run["errors"]) for run in runs] == [(1, 6, {}), (2, 6, {})]
    assert "to a router before workers of sd3 that are started for it: 16x16" in captured.err
    left = [child for child in psutil.Process().children(recursive=True) if child not in before]
    assert left == []


def test_a_worker_that_cannot_be_started_is_told_in_one_sentence(tmp_path: Path) -> None:
    file = launcher_file(tmp_path, worker_command=["/nonexistent/engine"], num_workers=1)
    with ending() as stack, pytest.raises(RouterFailed, match=r"the router did not start: .*nonexistent"):
        launched(Launcher("sd3", 1, file), stack, Report(as_json=True))
