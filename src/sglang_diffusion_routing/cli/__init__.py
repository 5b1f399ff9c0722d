"""The command line: `sglang-d-router [command]`; without a command it serves."""

import difflib
import sys
from collections.abc import Callable, Sequence

from sglang_diffusion_routing.cli.parser import PROGRAM
from sglang_diffusion_routing.errors import BadSetting

Run = Callable[[Sequence[str]], int]

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C ended: 128 + SIGINT."""


def _serve(argv: Sequence[str]) -> int:
    from sglang_diffusion_routing.cli import serve

    return serve.run(argv)


def _demo(argv: Sequence[str]) -> int:
    from sglang_diffusion_routing.cli import demo

    return demo.run(argv)


def _sim(argv: Sequence[str]) -> int:
    from sglang_diffusion_routing.cli import sim

    return sim.run(argv)


def _bench(argv: Sequence[str]) -> int:
    from sglang_diffusion_routing.cli import bench

    return bench.run(argv)


def _completion(argv: Sequence[str]) -> int:
    from sglang_diffusion_routing.cli import completion

    return completion.run(argv)


def _remote(name: str) -> Run:
    def run(argv: Sequence[str]) -> int:
        from sglang_diffusion_routing.cli import remote

        return remote.run(name, argv)

    return run


REMOTE = ("top", "workers", "refit", "sleep", "wake", "pause", "continue", "abort", "weights", "jobs", "doctor")
"""Commands against a running router."""

# Each command is imported when it is called: the router starts without what only the demo needs.
COMMANDS: dict[str, Run] = {
    "serve": _serve,
    **{name: _remote(name) for name in REMOTE},
    "demo": _demo,
    "sim": _sim,
    "bench": _bench,
    "completion": _completion,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (by default the process's arguments) names, and give its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    try:
        if not words or words[0].startswith("-"):
            return COMMANDS["serve"](words)
        if words[0] not in COMMANDS:
            close = difflib.get_close_matches(words[0], COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else "--help lists them"
            raise BadSetting(repr(words[0]), f"is no command; {hint}")
        return COMMANDS[words[0]](words[1:])
    except BadSetting as error:
        print(f"{PROGRAM}: {error.message}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
