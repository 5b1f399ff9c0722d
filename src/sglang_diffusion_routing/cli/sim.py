"""`sglang-d-router sim`: run one simulated worker."""

from collections.abc import Sequence

from sglang_diffusion_routing.cli.parser import Parser
from sglang_diffusion_routing.sim import cli


def run(argv: Sequence[str]) -> int:
    """Serve as a worker until a signal ends it, and give the exit status."""
    parser = Parser("sim", "Run a simulated SGLang-Diffusion worker: the same HTTP surface, real mathematics, no GPU.")
    cli.add_arguments(parser)
    return cli.run(parser.parse(argv))
