"""Play a scenario under one routing algorithm after the other, over simulated workers and the router."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from sglang_diffusion_routing.cli.bench.gantt import Span
from sglang_diffusion_routing.cli.bench.load import Bounds, Load, load
from sglang_diffusion_routing.cli.bench.measures import fairness, lower_bound_s, percentile, reasons
from sglang_diffusion_routing.cli.bench.options import BY_HAND, PolicyOptions
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.bench.requests import Request, Task
from sglang_diffusion_routing.cli.bench.scenarios import Scenario
from sglang_diffusion_routing.cli.processes import RouterProcess, start_workers
from sglang_diffusion_routing.sim.process import SimProcess

BOUNDS = Bounds(request_s=300.0, run_s=300.0)
IDLE_WITHIN_S = 60.0
"""For the work of a run that was given up, which nobody can cancel."""
PROBE_INTERVAL_S, PROBE_TIMEOUT_S, LEAST_PROBE_S = 10.0, 5.0, 0.25
"""The router's own, scaled with the time where `/health` is blocked, but to no less than a call may take on a
busy machine: a router whose first probes fail sends nobody any work."""


class NotIdle(RuntimeError):
    """Workers went on working after a run had ended."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one policy made of one scenario, once.

    All times are in the scenario's seconds: what was measured, over `scale`.
    repeat: from 0; runs of the same repeat had the same requests in the same order, and followed one another.
    makespan_s: from the first request sent to the last reply's end. ratio: the makespan over the lower bound
    (`measures.lower_bound_s`). p50_s, p99_s: of the requests that succeeded, waiting included. fairness: Jain's index
    of the workers' busy time. errors: how many requests failed, by reason.
    """

    scenario: str
    policy: str
    repeat: int
    scale: float
    makespan_s: float
    bound_s: float
    ratio: float
    p50_s: float
    p99_s: float
    fairness: float
    completed: int
    errors: dict[str, int]
    spans: tuple[Span, ...]


class Stage:
    """A scenario's workers, which are running, for one run after the other.

    scale: seconds that pass for one of the scenario's.
    """

    def __init__(self, scenario: Scenario, options: PolicyOptions, stack: ExitStack) -> None:
        """Start the workers; `stack` ends them, and the router of a run that is left by a signal.

        Raises:
            SimFailedToStart: one of them did not.
        """
        self.scenario = scenario
        self.scale = scale = options.scale or scenario.scale
        self._options = options
        self._stack = stack
        sims = [
            SimProcess(
                name=f"worker-{number}",
                model="wan",
                seconds_per_mpx_step=scenario.seconds_per_mpx_step * scale,
                overhead_seconds=0.0,
                speed=speed,
                block_event_loop=scenario.blocked,
                pad_reply_bytes=round(scenario.reply_bytes * options.bytes_scale),
            )
            for number, speed in enumerate(scenario.speeds)
        ]
        start_workers(stack, sims)
        self._urls = [sim.url for sim in sims]

    def play_all(self, report: Report) -> list[Run]:
        """Play the scenario under each policy in turn, as often as the options say.

        A repeat has an order of requests of its own, and begins with the next policy, so that whatever comes over the
        machine, and whatever follows from being the first, hits all alike.
        """
        policies, repeats = self._options.policies, range(self._options.repeat)
        turns = [(each, policies[(each + place) % len(policies)]) for each in repeats for place in range(len(policies))]
        return [self.play(policy, repeat, report) for repeat, policy in turns]

    def play(self, policy: str, repeat: int, report: Report) -> Run:
        """Play it once, behind a new router, which knows nothing of the workers' speeds yet.

        Raises:
            RouterFailed: it did not start.
            NotIdle: a worker does not come to an end.
        """
        scenario, seed = self.scenario, self._options.seed + repeat
        requests = [Request.of(Task.ROLLOUT, shape, number) for number, shape in enumerate(scenario.shapes(seed))]
        in_flight = scenario.in_flight or len(requests)
        label = f"{scenario.name}, {policy}, {repeat + 1} of {self._options.repeat}"
        with self._targets(policy, seed) as targets, report.progress(label, len(requests)) as tick:
            done = asyncio.run(load(targets, requests, in_flight, BOUNDS, tick))
            spans = _spans(self._urls, scenario.speeds, done.began_s, self.scale)
        return _measured(scenario, policy, repeat, self.scale, done, spans)

    @contextmanager
    def _targets(self, policy: str, seed: int) -> Iterator[list[str]]:
        """Give the addresses to load: that of a new router before the workers, or their own."""
        if policy == BY_HAND:
            yield self._urls
            return
        flags = _flags(self.scenario, policy, self.scale, seed)
        router = RouterProcess(self._urls, self._options.out / "router.log", flags)
        self._stack.callback(router.close)
        router.start()
        yield [router.url]
        router.close()


def _flags(scenario: Scenario, policy: str, scale: float, seed: int) -> list[str]:
    """Give the router's flags; all that is not named here is as it comes."""
    flags = ["--routing-algorithm", policy, "--seed", str(seed), "--no-state", "--log-level", "warning"]
    if scenario.blocked:
        interval_s, timeout_s = (max(each * scale, LEAST_PROBE_S) for each in (PROBE_INTERVAL_S, PROBE_TIMEOUT_S))
        flags += ["--health-check-interval", f"{interval_s:g}", "--probe-timeout", f"{timeout_s:g}"]
    return flags


def _spans(urls: Sequence[str], speeds: Sequence[float], began_s: float, scale: float) -> tuple[Span, ...]:
    """Ask the workers, once they are idle, what they did since `began_s`."""
    spans = []
    for number, (url, speed) in enumerate(zip(urls, speeds, strict=True)):
        for piece in _idle_state(url)["finished"]:
            if piece["started_s"] >= began_s:
                start_s, end_s = ((piece[key] - began_s) / scale for key in ("started_s", "finished_s"))
                spans.append(Span(number, start_s, end_s, (end_s - start_s) * speed))
    return tuple(spans)


def _idle_state(url: str) -> dict[str, Any]:
    """Give a worker's state when nothing waits or runs there.

    Raises:
        NotIdle: it went on working for too long.
    """
    deadline_s = time.monotonic() + IDLE_WITHIN_S
    while time.monotonic() < deadline_s:
        state: dict[str, Any] = httpx2.get(f"{url}/sim/state", timeout=IDLE_WITHIN_S, trust_env=False).json()
        if not state["queued"] and state["running"] is None:
            return state
        time.sleep(0.05)
    raise NotIdle(f"the worker at {url} went on working after the run had ended")


def _measured(scenario: Scenario, policy: str, repeat: int, scale: float, done: Load, spans: tuple[Span, ...]) -> Run:
    """Sum a run up."""
    # Whatever their order, the requests are the same.
    bound_s = lower_bound_s([scenario.seconds(shape) for shape in scenario.shapes(seed=0)], scenario.speeds)
    latencies = [outcome.seconds / scale for outcome in done.outcomes if not outcome.error]
    busy_s = [
        sum(span.ended_s - span.began_s for span in spans if span.worker == number)
        for number in range(len(scenario.speeds))
    ]
    makespan_s = done.seconds / scale
    return Run(
        scenario=scenario.name,
        policy=policy,
        repeat=repeat,
        scale=scale,
        makespan_s=makespan_s,
        bound_s=bound_s,
        ratio=makespan_s / bound_s,
        p50_s=percentile(latencies, 50),
        p99_s=percentile(latencies, 99),
        fairness=fairness(busy_s),
        completed=len(latencies),
        errors=reasons(done),
        spans=spans,
    )
