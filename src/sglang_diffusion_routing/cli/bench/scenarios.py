"""The scenarios from practice that policies are measured on, as data.

Times and sizes are those of real workers. A run divides both: by `scale` (seconds that pass for each second of the
scenario) and `--bytes-scale`, so that a laptop can play it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_diffusion_routing.cli.bench.requests import Shape

SIDE_PX = 16
"""Of every request: the simulated mathematics takes a millisecond, and what a piece takes is all waiting."""
MPX = SIDE_PX * SIDE_PX / 1e6


@dataclass(frozen=True, slots=True)
class Kind:
    """So many pieces of one shape. seconds: of one, on a worker of speed 1; frames: 1 is an image."""

    count: int
    seconds: float
    frames: int = 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """A batch of rollout requests over workers.

    speeds: one per worker. step_s: seconds of one denoising step of one frame; every kind is a multiple of it.
    in_flight: requests that the client has open at the same time; None for the whole batch. reply_bytes: of each.
    blocked: share of a generation during which a worker answers nobody, /health neither. scale: seconds that pass for
    one of the scenario's, unless `--scale` says otherwise.
    """

    name: str
    title: str
    speeds: tuple[float, ...]
    kinds: tuple[Kind, ...]
    step_s: float
    scale: float
    in_flight: int | None = None
    reply_bytes: int = 0
    blocked: float = 0.0

    def shapes(self, seed: int) -> list[Shape]:
        """Give the shape of each request, in the order in which they arrive: mixed by `seed`."""
        shapes = [
            Shape(SIDE_PX, SIDE_PX, round(kind.seconds / (self.step_s * kind.frames)), kind.frames)
            for kind in self.kinds
            for _ in range(kind.count)
        ]
        random.Random(seed).shuffle(shapes)
        return shapes

    def seconds(self, shape: Shape) -> float:
        """Give the time of a piece on a worker of speed 1, in the scenario's seconds."""
        return shape.mpx_steps * self.seconds_per_mpx_step

    @property
    def seconds_per_mpx_step(self) -> float:
        """Give the pace of a worker of speed 1, in the scenario's seconds."""
        return self.step_s / MPX


MB = 1_000_000
EQUAL = (1.0,) * 8
UNEQUAL = (1.0,) * 5 + (0.5,) * 3

SCENARIOS: Sequence[Scenario] = (
    Scenario("equal", "192 jobs of 12.8 s on 8 equal workers", EQUAL, (Kind(192, 12.8),), 0.32, 0.03),
    Scenario(
        "half-speed", "192 jobs of 12.8 s, 3 of 8 workers at half speed", UNEQUAL, (Kind(192, 12.8),), 0.32, 0.025
    ),
    Scenario(
        "images-videos",
        "144 images of 3 s and 48 videos of 17 to 51 s on 8 equal workers",
        EQUAL,
        (Kind(144, 3.0), Kind(16, 17.0, 17), Kind(16, 34.0, 17), Kind(16, 51.0, 17)),
        0.1,
        0.03,
    ),
    Scenario(
        "three-sizes",
        "32 pieces each of 7.8, 20.2 and 34.5 s on 8 equal workers",
        EQUAL,
        (Kind(32, 7.8), Kind(32, 20.2), Kind(32, 34.5)),
        0.1,
        0.03,
    ),
    Scenario(
        "large-replies",
        "8 workers of 0.5 s, replies of 92 MB, 16 in flight for each",
        EQUAL,
        (Kind(384, 0.5),),
        0.05,
        0.4,
        in_flight=8 * 16,
        reply_bytes=92 * MB,
    ),
    Scenario(
        "larger-replies",
        "4 workers of 5.5 s, replies of 324 MB, 16 in flight",
        (1.0,) * 4,
        (Kind(64, 5.5),),
        0.11,
        0.1,
        in_flight=16,
        reply_bytes=324 * MB,
    ),
    Scenario(
        "rollout-64",
        "8 workers of 20 s, replies of 164 MB, 64 in flight",
        EQUAL,
        (Kind(128, 20.0),),
        0.4,
        0.03,
        in_flight=64,
        reply_bytes=164 * MB,
    ),
    Scenario(
        "blocked",
        "64 pieces of 43 s during which /health is blocked, on 8 equal workers",
        EQUAL,
        (Kind(64, 43.0),),
        0.86,
        0.025,
        blocked=0.9,
    ),
    Scenario("burst", "a burst of 2,048 images of 0.9 s on 8 equal workers", EQUAL, (Kind(2048, 0.9),), 0.1, 0.1),
)
