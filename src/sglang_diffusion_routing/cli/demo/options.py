"""The options of the demo, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sglang_diffusion_routing.cli.demo import prompts
from sglang_diffusion_routing.cli.parser import Parser, between, made

DESCRIPTION = """\
Run a whole reinforcement-learning loop on simulated workers: rollout, sleep, train, wake, refit, rollout again.
Shows where each sample ran and on which weights, how even the load was and what the router cost, and checks all of it.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run: `samples` of each of `prompts` on `workers`, with files written to `out`."""

    workers: int
    prompts: tuple[str, ...]
    samples: int
    out: Path
    seed: int


def parse(argv: Sequence[str]) -> Options:
    """Read the options.

    Raises:
        BadSetting: one is unknown or bad, the prompts cannot be read, or `out` cannot be written.
    """
    parser = Parser("demo", DESCRIPTION)
    parser.add_argument(
        "--workers",
        type=between(1, 16),
        default=4,
        metavar="N",
        help="simulated workers (default 4); of several, one is half as fast",
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts, one a line (default: those that come along)"
    )
    parser.add_argument(
        "--count", type=between(1, 10_000), default=48, metavar="N", help="prompts to draw from the file (default 48)"
    )
    parser.add_argument(
        "--samples", type=between(2, 64), default=4, metavar="N", help="samples of each prompt (default 4)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="where files are written (default demo-out)"
    )
    parser.add_argument("--seed", type=between(0, 2**32), default=0, metavar="N", help="seed of everything (default 0)")
    given = parser.parse(argv)
    known = prompts.read(given.prompts) if given.prompts else prompts.shipped()
    return Options(
        workers=given.workers,
        prompts=tuple(prompts.choose(known, given.count, given.seed)),
        samples=given.samples,
        out=made(given.out),
        seed=given.seed,
    )
