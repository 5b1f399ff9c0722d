"""`sglang-d-router bench`: compare routing algorithms, or load an address."""

import sys
from collections.abc import Sequence

from sglang_diffusion_routing.cli.bench import options, playing, policies, serve
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.parser import PROGRAM
from sglang_diffusion_routing.cli.processes import RouterFailed
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.sim.process import SimFailedToStart

USAGE = f"""\
usage: {PROGRAM} bench policies [flags]   compare the routing algorithms on scenarios from practice
       {PROGRAM} bench serve [flags]      load an address, or a router that it starts, with requests
"""


def run(argv: Sequence[str]) -> int:
    """Run the benchmark that the first word names; 0 when no request failed, else 1.

    Raises:
        BadSetting: there is no such benchmark, or one of its options is bad.
    """
    if not argv or argv[0] in {"-h", "--help"}:
        print(USAGE, end="")
        return 0 if argv else 2
    name, *words = argv
    try:
        if name == "policies":
            chosen = options.parse_policies(words)
            return policies.run(chosen, Report(as_json=chosen.as_json))
        if name == "serve":
            asked = options.parse_serve(words)
            return serve.run(asked, Report(as_json=asked.as_json))
    except (RouterFailed, SimFailedToStart, playing.NotIdle) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    raise BadSetting(repr(name), "is no benchmark; there are policies and serve")
