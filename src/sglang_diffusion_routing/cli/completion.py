"""`sglang-d-router completion SHELL`: print what makes a shell complete commands and flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shtab

from sglang_diffusion_routing.cli import remote, serve
from sglang_diffusion_routing.cli.parser import PROGRAM, Parser

EPILOG = """\
bash: sglang-d-router completion bash > ~/.local/share/bash-completion/completions/sglang-d-router
zsh:  sglang-d-router completion zsh > a folder of $fpath, as _sglang-d-router
fish: sglang-d-router completion fish > ~/.config/fish/completions/sglang-d-router.fish
"""


def run(argv: Sequence[str]) -> int:
    """Print the script."""
    parser = Parser("completion", "Print a script that makes a shell complete commands and flags.", epilog=EPILOG)
    parser.add_argument("shell", choices=["bash", "zsh", "fish", "tcsh"])
    chosen = parser.parse(argv)
    print(shtab.complete(whole_parser(), chosen.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Give one parser of all commands; it is completed by, and parses nothing itself."""
    whole = argparse.ArgumentParser(prog=PROGRAM, parents=[serve.parser()], add_help=False, conflict_handler="resolve")
    commands = whole.add_subparsers(metavar="command", parser_class=argparse.ArgumentParser)
    commands.add_parser("serve", parents=[serve.parser()], add_help=False, help="run the router")
    for name, command in remote.COMMANDS.items():
        commands.add_parser(name, parents=[remote.parser_of(name)], add_help=False, help=command.meaning)
    for name, meaning in (
        ("demo", "a whole reinforcement-learning loop on simulated workers"),
        ("sim", "one simulated worker"),
        ("bench", "compare routing algorithms, or load an address"),
        ("completion", "print a script for a shell's completion"),
    ):
        commands.add_parser(name, help=meaning)
    return whole
