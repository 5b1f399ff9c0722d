"""`python -m sglang_diffusion_routing.sim`: one simulated worker."""

import argparse
import sys

from sglang_diffusion_routing.sim.cli import add_arguments, run


def main() -> int:
    """Read the flags and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m sglang_diffusion_routing.sim",
        description="A simulated SGLang-Diffusion worker: no GPU, real numbers.",
    )
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
