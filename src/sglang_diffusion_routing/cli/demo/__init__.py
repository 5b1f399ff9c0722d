"""`sglang-d-router demo`: a whole reinforcement-learning loop on simulated workers."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx2
from rich.console import Console

from sglang_diffusion_routing.cli.demo.loop import BASE_VERSION, CHECKPOINTS, CONNECT_S, CallFailed, Loop
from sglang_diffusion_routing.cli.demo.options import Options, parse
from sglang_diffusion_routing.cli.demo.processes import Fleet, running
from sglang_diffusion_routing.cli.demo.report import Report
from sglang_diffusion_routing.cli.demo.rollout import RolloutFailed
from sglang_diffusion_routing.cli.processes import RouterFailed
from sglang_diffusion_routing.client import ClientError
from sglang_diffusion_routing.sim.process import SimFailedToStart
from sglang_diffusion_routing.sim.weights import load_modules, module_checksum, write_checkpoint


def run(argv: Sequence[str]) -> int:
    """Run the demo; the exit status is 0 when everything that it claims holds, else 1."""
    options = parse(argv)
    console = Console(highlight=False, soft_wrap=False)
    report = Report(console)
    log = options.out / "router.log"
    count = len(options.prompts)
    report.step("demo", f"{count} prompts x {options.samples} samples on {options.workers} simulated workers (no GPU)")
    try:
        base = _base_checkpoint(options.out)
        with running(options.workers, base, log) as fleet:
            report.step("start", f"workers and router at {fleet.router.url} in {fleet.start_s:.1f} s")
            held = asyncio.run(_loop(fleet, options, report, base))
    except (CallFailed, ClientError, RolloutFailed, RouterFailed, SimFailedToStart) as error:
        report.step("failed", f"{error}")
        report.step("log", str(log))
        return 1
    except KeyboardInterrupt:
        report.step("stopped", "everything that was started has ended")
        raise
    report.step("files", f"contact-sheet.png, samples.csv and router.log in {options.out}")
    return 0 if held else 1


def _base_checkpoint(folder: Path) -> Path:
    """Write the weights that the workers start with."""
    base = folder / CHECKPOINTS / BASE_VERSION
    write_checkpoint(base, seed=0)
    return base


async def _loop(fleet: Fleet, options: Options, report: Report, base: Path) -> bool:
    """Run the loop, and tell whether every claim held."""
    checksum = module_checksum(load_modules(str(base), ["transformer"])["transformer"])
    limits = httpx2.Limits(max_connections=None)
    # A request may wait in the router for as long as those before it take.
    patience = httpx2.Timeout(None, connect=CONNECT_S)
    async with httpx2.AsyncClient(base_url=fleet.router.url, timeout=patience, limits=limits) as client:
        verdict = await Loop(client, fleet, options, report).run(checksum)
    return not verdict.broken
