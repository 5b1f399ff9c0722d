"""The router with its promise broken on purpose: every worker counts as current, whatever it has loaded."""

from collections.abc import Sequence

from sglang_diffusion_routing import cli
from sglang_diffusion_routing.core.weights import Currency, Ledger


def run_unfenced(argv: Sequence[str]) -> int:
    """Run the command line with nobody looking at what a worker has loaded."""
    Ledger.currency = lambda *_: Currency.CURRENT  # type: ignore[method-assign, misc]
    return cli.main(argv)
