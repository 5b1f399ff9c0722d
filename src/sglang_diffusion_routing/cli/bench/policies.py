"""`bench policies`: play each scenario under each routing algorithm, over simulated workers and the router."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx2

from sglang_diffusion_routing.cli.bench.gantt import Chart, Panel, Span, chart
from sglang_diffusion_routing.cli.bench.load import Bounds, Load, load
from sglang_diffusion_routing.cli.bench.measures import fairness, lower_bound_s, percentile, reasons
from sglang_diffusion_routing.cli.bench.options import BY_HAND, PolicyOptions
from sglang_diffusion_routing.cli.bench.page import page
from sglang_diffusion_routing.cli.bench.picture import write_png
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.bench.requests import Request, Task
from sglang_diffusion_routing.cli.bench.scenarios import Scenario
from sglang_diffusion_routing.cli.processes import RouterProcess, ending, start_workers
from sglang_diffusion_routing.sim.process import SimProcess

BOUNDS = Bounds(request_s=300.0, run_s=300.0)
IDLE_WITHIN_S = 60.0
"""For the work of a run that was given up, which nobody can cancel."""
PROBE_INTERVAL_S, PROBE_TIMEOUT_S, LEAST_PROBE_S = 10.0, 5.0, 0.1
"""The router's own, scaled with the time where `/health` is blocked, but to no less than a loopback call may take."""


class NotIdle(RuntimeError):
    """Workers went on working after a run had ended."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one policy made of one scenario. All times are in the scenario's seconds: what was measured, over `scale`.

    makespan_s: from the first request sent to the last reply's end. ratio: the makespan over the lower bound
    (`measures.lower_bound_s`). p50_s, p99_s: of the requests that succeeded, waiting included. fairness: Jain's index
    of the workers' busy time. errors: how many requests failed, by reason.
    """

    scenario: str
    policy: str
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


HEAD = ("policy", "makespan s", "over bound", "p50 s", "p99 s", "fairness", "failed")


def run(options: PolicyOptions, report: Report) -> int:
    """Run all, show and write what came out; the status is 1 when a request failed."""
    began_s = time.monotonic()
    report.line(f"Simulated workers; replies are {options.bytes_scale:g} of their real size.")
    scenes: list[tuple[Scenario, list[Run], Chart]] = []
    for scenario in options.scenarios:
        runs = _play(scenario, options, report)
        drawn = _draw(scenario, runs)
        write_png(drawn, options.out / f"{scenario.name}.png")
        report.table(f"{scenario.title}: {_note(runs)}", _rows(runs))
        scenes.append((scenario, runs, drawn))
    _write(options, scenes)
    all_runs = [one for _, runs, _ in scenes for one in runs]
    for one in all_runs:
        for reason, count in one.errors.items():
            report.line(f"{one.scenario}, {one.policy}: {count} failed: {reason}")
    report.line(f"policies.html, policies.json and pictures are in {options.out} ({time.monotonic() - began_s:.0f} s).")
    if options.as_json:
        print(json.dumps(_document(options, all_runs), indent=1))
    return 1 if any(one.errors for one in all_runs) else 0


def _play(scenario: Scenario, options: PolicyOptions, report: Report) -> list[Run]:
    """Play a scenario under each policy in turn, on the same workers, each time behind a new router."""
    scale = options.scale or scenario.scale
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
    runs = []
    with ending() as stack:
        start_workers(stack, sims)
        urls = [sim.url for sim in sims]
        for policy in options.policies:
            targets = urls
            router = None
            if policy != BY_HAND:
                router = RouterProcess(urls, options.out / "router.log", _flags(scenario, policy, scale, options.seed))
                stack.callback(router.close)
                router.start()
                targets = [router.url]
            shapes = scenario.shapes(options.seed)
            requests = [Request.of(Task.ROLLOUT, shape, number) for number, shape in enumerate(shapes)]
            with report.progress(f"{scenario.name}, {policy}", len(requests)) as tick:
                done = asyncio.run(load(targets, requests, scenario.in_flight or len(requests), BOUNDS, tick))
            spans = _spans(urls, scenario.speeds, done.began_s, scale)
            runs.append(_measured(scenario, policy, scale, options.seed, done, spans))
            if router is not None:
                router.close()
    return runs


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


def _measured(scenario: Scenario, policy: str, scale: float, seed: int, done: Load, spans: tuple[Span, ...]) -> Run:
    """Sum a run up."""
    bound_s = lower_bound_s([scenario.seconds(shape) for shape in scenario.shapes(seed)], scenario.speeds)
    latencies = [outcome.seconds / scale for outcome in done.outcomes if not outcome.error]
    busy_s = [
        sum(span.ended_s - span.began_s for span in spans if span.worker == number)
        for number in range(len(scenario.speeds))
    ]
    makespan_s = done.seconds / scale
    return Run(
        scenario=scenario.name,
        policy=policy,
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


def _note(runs: Sequence[Run]) -> str:
    return f"1 s takes {runs[0].scale:g} s here, lower bound {runs[0].bound_s:.4g} s"


def _rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [HEAD]
    rows += [
        (one.policy, f"{one.makespan_s:.4g}", f"{one.ratio:.3f}", f"{one.p50_s:.4g}", f"{one.p99_s:.4g}",
         f"{one.fairness:.3f}", str(sum(one.errors.values())))
        for one in runs
    ]  # fmt: skip
    return rows


def _draw(scenario: Scenario, runs: Sequence[Run]) -> Chart:
    panels = [
        Panel(f"{one.policy}: {one.ratio:.3f} x the lower bound", len(scenario.speeds), one.spans, one.bound_s)
        for one in runs
    ]
    return chart(scenario.title, panels)


NOTES = f"""\
Real processes: the router and simulated workers, which wait instead of computing. A bar is a piece of work; the longer
the work, the redder the bar.
The green line is the lower bound, which no schedule can beat: the larger of all work over all speeds, and the longest
piece on the fastest worker.
Times are the scenario's: what was measured, over the scale of time. What the router, the client and a busy machine
take therefore counts for more than it would in reality.
{BY_HAND}: no router; the client spreads requests over the workers in turn. Fairness is Jain's index of the workers'
busy time, from 1/n to 1."""


def _write(options: PolicyOptions, scenes: Sequence[tuple[Scenario, list[Run], Chart]]) -> None:
    sections = [(scene.title, _note(runs), _rows(runs), drawn) for scene, runs, drawn in scenes]
    notes = (NOTES, f"Replies are {options.bytes_scale:g} of their real size.")
    (options.out / "policies.html").write_text(page("Routing algorithms compared", notes, sections), encoding="utf-8")
    runs = [one for _, runs, _ in scenes for one in runs]
    (options.out / "policies.json").write_text(json.dumps(_document(options, runs), indent=1) + "\n", encoding="utf-8")


def _document(options: PolicyOptions, runs: Sequence[Run]) -> dict[str, object]:
    """Give what --json prints: everything but the workers' spans, which the picture shows."""
    rows = [{key: value for key, value in asdict(one).items() if key != "spans"} for one in runs]
    return {"seed": options.seed, "bytes_scale": options.bytes_scale, "runs": rows}
