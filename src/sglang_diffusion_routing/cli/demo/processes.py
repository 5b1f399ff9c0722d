"""The processes of the demo: simulated workers, one of them slow, and the router in front of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sglang_diffusion_routing.cli.processes import RouterProcess, ending, start_workers
from sglang_diffusion_routing.sim.process import SimProcess

SECONDS_PER_MPX_STEP = 0.24
"""What Qwen-Image takes on an H100 for one denoising step of one megapixel."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs: simulated workers with their speeds, and the router in front of them."""

    workers: tuple[SimProcess, ...]
    speeds: tuple[float, ...]
    router: RouterProcess
    start_s: float


@contextmanager
def running(workers: int, model_path: Path, log: Path) -> Iterator[Fleet]:
    """Start everything, and end it whatever happens: nothing that was started here outlives the block."""
    speeds = [1.0] * workers
    if workers > 1:
        speeds[-1] = 0.5
    sims = [
        SimProcess(
            name=name_of(index), model_path=str(model_path), seconds_per_mpx_step=SECONDS_PER_MPX_STEP, speed=speed
        )
        for index, speed in enumerate(speeds)
    ]
    started_s = time.monotonic()
    with ending() as stack:
        start_workers(stack, sims)
        router = RouterProcess([sim.url for sim in sims], log)
        stack.callback(router.close)
        router.start()
        yield Fleet(tuple(sims), tuple(speeds), router, time.monotonic() - started_s)


def name_of(index: int) -> str:
    """Name a worker by a letter: A, B, C."""
    return chr(ord("A") + index)
