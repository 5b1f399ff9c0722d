"""The options of the demo, checked."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sglang_diffusion_routing.cli.demo import prompts
from sglang_diffusion_routing.cli.parser import Parser
from sglang_diffusion_routing.errors import BadSetting

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
        type=_between(1, 16),
        default=4,
        metavar="N",
        help="simulated workers (default 4); of several, one is half as fast",
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts, one a line (default: those that come along)"
    )
    parser.add_argument(
        "--count", type=_between(1, 10_000), default=48, metavar="N", help="prompts to draw from the file (default 48)"
    )
    parser.add_argument(
        "--samples", type=_between(2, 64), default=4, metavar="N", help="samples of each prompt (default 4)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="where files are written (default demo-out)"
    )
    parser.add_argument(
        "--seed", type=_between(0, 2**32), default=0, metavar="N", help="seed of everything (default 0)"
    )
    given = parser.parse(argv)
    known = prompts.read(given.prompts) if given.prompts else prompts.shipped()
    return Options(
        workers=given.workers,
        prompts=tuple(prompts.choose(known, given.count, given.seed)),
        samples=given.samples,
        out=_made(given.out),
        seed=given.seed,
    )


def _between(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not low <= int(text[:20]) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return read


def _made(folder: Path) -> Path:
    """Make the folder, and see that it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadSetting(f"--out {folder}", f"cannot be written: {error.strerror or error}") from None
    return folder.resolve()
