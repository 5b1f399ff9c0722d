"""The options of both benchmarks, checked."""

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sglang_diffusion_routing.cli.bench.launched import Launcher
from sglang_diffusion_routing.cli.bench.load import Bounds
from sglang_diffusion_routing.cli.bench.requests import Shape, Task
from sglang_diffusion_routing.cli.bench.scenarios import SCENARIOS, Scenario
from sglang_diffusion_routing.cli.parser import Parser, between, made
from sglang_diffusion_routing.cli.remote.options import ADMIN_KEY, API_KEY, key_in
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers import config
from sglang_diffusion_routing.settings import RoutingAlgorithm

BY_HAND = "by-hand"
"""The contestant without a router: the client spreads requests over the workers in turn."""
POLICIES = (*(algorithm.value for algorithm in RoutingAlgorithm), BY_HAND)

MOST_REPEATS = 100
MOST_PROMPTS, MOST_IN_FLIGHT, MOST_WORKERS = 100_000, 4096, 64
CONCURRENCIES = (1, 10, 100)
MOST_RATE = 10_000.0
SIMULATED_PX, REAL_PX, VIDEO_FRAMES = 128, 512, 17


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What `bench policies` plays, and how often; `scale` is None for each scenario's own."""

    scenarios: tuple[Scenario, ...]
    policies: tuple[str, ...]
    scale: float | None
    bytes_scale: float
    repeat: int
    seed: int
    out: Path
    as_json: bool


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `bench serve` loads: the address `url`, or a router before workers: given, launched or simulated ones.

    num_workers, request_rate and max_concurrency are tried in every combination. request_rate: requests a second,
    None for as fast as max_concurrency lets them. seed: of their arrivals. simulated_s: what a simulated worker takes
    for a request. extra: further fields of each body. slo_scale: the SLO is this times what a request takes by itself.
    key: for `url`; commands against a router have it from the same place.
    """

    url: str
    worker_urls: tuple[str, ...]
    launcher: Launcher | None
    num_workers: tuple[int, ...]
    request_rate: tuple[float | None, ...]
    max_concurrency: tuple[int, ...]
    seed: int
    num_prompts: int
    warmup_requests: int
    task: Task
    shape: Shape
    extra: Mapping[str, Any]
    simulated_s: float
    policy: str
    slo_s: float | None
    slo_scale: float | None
    bounds: Bounds
    out: Path | None
    as_json: bool
    key: str | None = field(default=None, repr=False)


def parse_policies(argv: Sequence[str]) -> PolicyOptions:
    """Read the options of `bench policies`.

    Raises:
        BadSetting: one is unknown or bad, or `--out` cannot be written.
    """
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    listed = "\n".join(f"  {name:15} {scenario.title}" for name, scenario in scenarios.items())
    description = "Play each scenario under each routing algorithm, over simulated workers and the router itself."
    parser = Parser("bench policies", description, epilog=f"scenarios:\n{listed}\n")
    parser.add_argument(
        "--scenario", nargs="+", type=_one_of("scenario", scenarios), metavar="NAME", help="which (default all)"
    )
    parser.add_argument(
        "--policy", nargs="+", type=_one_of("policy", POLICIES), metavar="NAME", help=f"of {', '.join(POLICIES)}"
    )
    parser.add_argument(
        "--scale", type=_number(0.001, 1.0), metavar="X", help="seconds that pass for one of a scenario's"
    )
    parser.add_argument(
        "--bytes-scale", type=_number(0.0, 1.0), default=0.01, metavar="X", help="part of a reply's size (default 0.01)"
    )
    parser.add_argument(
        "--repeat", type=between(1, MOST_REPEATS), default=1, metavar="N", help="runs of each (default 1)"
    )
    parser.add_argument("--seed", type=between(0, 2**32), default=0, metavar="N", help="of the order (default 0)")
    _add_outputs(parser, Path("bench-out"))
    given = parser.parse(argv)
    return PolicyOptions(
        scenarios=tuple(scenarios[name] for name in dict.fromkeys(given.scenario or scenarios)),
        policies=tuple(dict.fromkeys(given.policy or POLICIES)),
        scale=given.scale,
        bytes_scale=given.bytes_scale,
        repeat=given.repeat,
        seed=given.seed,
        out=made(given.out),
        as_json=given.json,
    )


def parse_serve(argv: Sequence[str]) -> ServeOptions:
    """Read the options of `bench serve`.

    Raises:
        BadSetting: one is unknown or bad, does not go with another, or `--out` cannot be written.
    """
    given = _serve_parser().parse(argv)
    _see_that_they_go_together(given)
    launcher = _launcher(given)
    side = REAL_PX if given.url or given.worker_urls or launcher else SIMULATED_PX
    task = Task(given.task)
    frames = given.num_frames or (VIDEO_FRAMES if task is Task.VIDEO else 1)
    if launcher is not None:
        default_workers: tuple[int, ...] = (launcher.num_workers,)
    else:
        default_workers = (len(given.worker_urls),) if given.worker_urls else (1, 2, 4)
    return ServeOptions(
        url=given.url or "",
        worker_urls=tuple(given.worker_urls or ()),
        launcher=launcher,
        num_workers=given.num_workers or default_workers,
        request_rate=given.request_rate or (None,),
        max_concurrency=given.max_concurrency or ((MOST_IN_FLIGHT,) if given.request_rate else CONCURRENCIES),
        seed=given.seed,
        num_prompts=given.num_prompts,
        warmup_requests=given.warmup_requests,
        task=task,
        shape=Shape(
            given.width or side, given.height or side, given.num_inference_steps, frames, given.num_outputs_per_prompt
        ),
        extra=given.extra_body,
        simulated_s=given.simulated_seconds,
        policy=given.routing_algorithm,
        slo_s=given.slo,
        slo_scale=given.slo_scale,
        bounds=Bounds(request_s=given.timeout, run_s=given.max_seconds, poll_s=given.poll_interval),
        out=made(given.out) if given.out else None,
        as_json=given.json,
        key=(key_in(os.environ, API_KEY) or key_in(os.environ, ADMIN_KEY)) if given.url else None,
    )


def _serve_parser() -> Parser:
    parser = Parser(
        "bench serve",
        "Load an address, or a router that it starts before real or simulated workers, and say what came of it.",
    )
    where = parser.add_argument_group("what is loaded (default: a router before simulated workers)")
    where.add_argument("--url", type=_url, metavar="URL", help="a router or a worker that runs")
    where.add_argument("--worker-urls", type=_url, nargs="+", metavar="URL", help="workers to start a router before")
    where.add_argument(
        "--model", metavar="MODEL", help="workers to start, on this machine's GPUs, with a router before"
    )
    where.add_argument(
        "--launcher-config", type=Path, metavar="FILE", help="the same, as this file says (docs/launchers.md)"
    )
    where.add_argument(
        "--num-workers", type=_numbers(1, MOST_WORKERS), metavar="N,N", help="how many of them, in turn (1,2,4)"
    )
    where.add_argument(
        "--simulated-seconds", type=_number(0, 60), default=0.1, metavar="S", help="what one request takes them (0.1)"
    )
    where.add_argument(
        "--routing-algorithm",
        type=_one_of("routing algorithm", POLICIES[:-1]),
        default=POLICIES[0],
        metavar="NAME",
        help=f"of the router that is started (default {POLICIES[0]})",
    )
    what = parser.add_argument_group("requests")
    what.add_argument("--task", type=_one_of("task", tuple(Task)), default="image", metavar="NAME", help="|".join(Task))
    what.add_argument("--num-prompts", type=between(1, MOST_PROMPTS), default=100, metavar="N", help="a run (100)")
    what.add_argument(
        "--max-concurrency",
        type=_numbers(1, MOST_IN_FLIGHT),
        metavar="N,N",
        help=f"requests in flight, in turn (1,10,100; with --request-rate {MOST_IN_FLIGHT})",
    )
    what.add_argument(
        "--request-rate",
        type=_rates,
        metavar="R,R",
        help="requests a second, in turn, arriving by chance (default: the next as soon as one ends)",
    )
    what.add_argument("--seed", type=between(0, 2**32), default=0, metavar="N", help="of the arrivals (0)")
    what.add_argument("--warmup-requests", type=between(0, 1000), default=1, metavar="N", help="not counted (1)")
    what.add_argument("--width", type=between(1, 8192), metavar="PX", help="pixels (512; simulated 128)")
    what.add_argument("--height", type=between(1, 8192), metavar="PX", help="pixels (512; simulated 128)")
    what.add_argument("--num-inference-steps", type=between(1, 1000), default=20, metavar="N", help="steps (20)")
    what.add_argument("--num-frames", type=between(1, 1000), metavar="N", help="frames (17 of a video, else 1)")
    what.add_argument("--num-outputs-per-prompt", type=between(1, 64), default=1, metavar="N", help="outputs (1)")
    what.add_argument("--extra-body", type=_json, default={}, metavar="JSON", help="further fields of each body")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--slo", type=_number(0, 86_400), metavar="S", help="a request should end within this")
    limits.add_argument(
        "--slo-scale", type=_number(0, 1000), metavar="X", help="or within this times what the warm-up took for one"
    )
    limits.add_argument("--timeout", type=_number(0, 86_400), default=600.0, metavar="S", help="of a request (600)")
    limits.add_argument("--max-seconds", type=_number(0, 86_400), default=1800.0, metavar="S", help="of a run (1800)")
    limits.add_argument("--poll-interval", type=_number(0, 60), default=0.25, metavar="S", help="of videos (0.25)")
    _add_outputs(parser, None)
    return parser


def _add_outputs(parser: Parser, out: Path | None) -> None:
    """Add what both benchmarks have."""
    default = f"default {out}" if out else "default: none"
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"where files are written ({default})")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and all else on standard error")


def _launcher(given: argparse.Namespace) -> Launcher | None:
    """Say which workers are to be started.

    Raises:
        BadSetting: the launcher file is wrong, or starts fewer than are asked for.
    """
    if given.model:
        return Launcher(given.model, max(given.num_workers or (1,)))
    if given.launcher_config is None:
        return None
    wanted = config.read(given.launcher_config)
    if given.num_workers and max(given.num_workers) > wanted.num_workers:
        raise BadSetting("--num-workers", f"asks for more than the {wanted.num_workers} of --launcher-config")
    return Launcher(wanted.model, wanted.num_workers, given.launcher_config)


def _see_that_they_go_together(given: argparse.Namespace) -> None:
    sources = {
        "--url": given.url,
        "--worker-urls": given.worker_urls,
        "--model": given.model,
        "--launcher-config": given.launcher_config,
    }
    chosen = [flag for flag, value in sources.items() if value]
    if len(chosen) > 1:
        raise BadSetting(chosen[1], f"does not go with {chosen[0]}: each says what is loaded")
    if given.slo is not None and given.slo_scale is not None:
        raise BadSetting("--slo-scale", "does not go with --slo: there is one SLO")
    if given.slo_scale is not None and not given.warmup_requests:
        raise BadSetting("--slo-scale", "needs --warmup-requests, which say what a request takes by itself")
    if given.request_rate and given.num_prompts / min(given.request_rate) > given.max_seconds:
        slowest = min(given.request_rate)
        raise BadSetting(
            "--request-rate",
            f"{slowest:g} needs more than --max-seconds {given.max_seconds:g} for the requests to come",
        )
    if given.url and given.num_workers:
        raise BadSetting("--num-workers", "does not go with --url: nothing is started before a given address")
    if given.worker_urls and given.num_workers and max(given.num_workers) > len(given.worker_urls):
        raise BadSetting("--num-workers", f"asks for more than the {len(given.worker_urls)} of --worker-urls")


def _one_of(noun: str, names: Mapping[str, object] | Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is no {noun}; there are {', '.join(names)}")
        return text

    return read


def _number(above: float, most: float) -> Callable[[str], float]:
    """Make a reader of numbers above 0, or from `above` when that is not 0."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (above < value <= most or value == above > 0):
            bounds = f"from {above:g} to {most:g}" if above else f"above 0 and at most {most:g}"
            raise argparse.ArgumentTypeError(f"must be a number {bounds}, not {text!r}")
        return value

    return read


def _numbers(low: int, high: int) -> Callable[[str], tuple[int, ...]]:
    """Make a reader of whole numbers with commas between them."""
    read_one = between(low, high)
    return lambda text: tuple(dict.fromkeys(read_one(part) for part in text.split(",")))


def _rates(text: str) -> tuple[float, ...]:
    read_one = _number(0, MOST_RATE)
    return tuple(dict.fromkeys(read_one(part) for part in text.split(",")))


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in {"http", "https"} and parts.hostname and not parts.query and not parts.fragment
    except ValueError:
        is_address = False
    if not is_address:
        raise argparse.ArgumentTypeError(f"must be an address like http://127.0.0.1:30080, not {text!r}")
    return text.rstrip("/")


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text!r}")
    return value
