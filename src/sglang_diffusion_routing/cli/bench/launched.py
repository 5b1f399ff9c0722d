"""Workers that are started for a benchmark, by the launcher of a router of their own."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.processes import RouterProcess
from sglang_diffusion_routing.client import Client
from sglang_diffusion_routing.launchers.config import ROOT

START_S = 3600.0
"""A first start may fetch the model; each worker has a limit of its own (`wait_timeout`)."""
STOP_S = 60.0
READ_S = 10.0


@dataclass(frozen=True, slots=True)
class Launcher:
    """What to start: `num_workers` of `model`, as the launcher file says; without one, in the launcher's usual way."""

    model: str
    num_workers: int
    file: Path | None = None


def launched(launcher: Launcher, stack: ExitStack, report: Report) -> Sequence[str]:
    """Start workers and give their addresses when all of them serve; `stack` ends them.

    The router that launches them stays beside those that are loaded, to keep its workers running and to end them. It
    gets no requests.

    Raises:
        RouterFailed: they cannot be started.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-launcher-")))
    file = launcher.file
    if file is None:
        file = folder / "launcher.yaml"
        # JSON is YAML.
        wanted = {"model": launcher.model, "num_workers": launcher.num_workers, "log_dir": str(folder)}
        file.write_text(json.dumps({ROOT: wanted}), encoding="utf-8")
    flags = ["--launcher-config", str(file), "--no-state"]
    router = RouterProcess((), folder / "router.log", flags, start_s=START_S, stop_s=STOP_S)
    stack.callback(router.close)
    report.line(f"Starting {launcher.num_workers} workers of {launcher.model}.")
    router.start()
    with Client(router.url, timeout_s=READ_S) as client:
        return [worker["url"] for worker in client.workers()]
