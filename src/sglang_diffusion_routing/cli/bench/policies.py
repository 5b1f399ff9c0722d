"""`bench policies`: play each scenario under each routing algorithm, and say how they compare."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from sglang_diffusion_routing.cli.bench.gantt import Chart, Panel, chart
from sglang_diffusion_routing.cli.bench.options import BY_HAND, PolicyOptions
from sglang_diffusion_routing.cli.bench.page import page
from sglang_diffusion_routing.cli.bench.picture import write_png
from sglang_diffusion_routing.cli.bench.playing import Run, Stage
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.bench.scenarios import Scenario
from sglang_diffusion_routing.cli.processes import ending
from sglang_diffusion_routing.settings import RoutingAlgorithm

COMPARED_WITH = RoutingAlgorithm.LEAST_REQUEST.value
"""What the others are compared with, run by run: it is what routers usually do."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a policy did in a scenario: medians over its runs, and the bounds of what was seen.

    to_least_request: its makespan over that of least-request in the same repeat; None where that was not played.
    """

    scenario: str
    policy: str
    makespan_s: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    to_least_request: float | None
    p50_s: float
    p99_s: float
    fairness: float
    failed: int


def run(options: PolicyOptions, report: Report) -> int:
    """Run all, show and write what came out; the status is 1 when a request failed."""
    began_s = time.monotonic()
    report.line(f"Simulated workers; replies are {options.bytes_scale:g} of their real size.")
    scenes: list[tuple[Scenario, list[Run], Chart]] = []
    for scenario in options.scenarios:
        runs = _play(scenario, options, report)
        drawn = _draw(scenario, options, runs)
        write_png(drawn, options.out / f"{scenario.name}.png")
        report.table(f"{scenario.title}: {_note(runs)}", _rows(standings(options.policies, runs)))
        scenes.append((scenario, runs, drawn))
    _write(options, scenes)
    all_runs = [one for _, runs, _ in scenes for one in runs]
    for one in all_runs:
        for reason, count in one.errors.items():
            report.line(f"{one.scenario}, {one.policy}: {count} failed: {reason}")
    report.line(f"policies.html, policies.json and pictures are in {options.out} ({time.monotonic() - began_s:.0f} s).")
    if options.as_json:
        print(json.dumps(_document(options, scenes), indent=1))
    return 1 if any(one.errors for one in all_runs) else 0


def _play(scenario: Scenario, options: PolicyOptions, report: Report) -> list[Run]:
    with ending() as stack:
        return Stage(scenario, options, stack).play_all(report)


def standings(policies: Sequence[str], runs: Sequence[Run]) -> list[Standing]:
    """Sum up the runs of one scenario, policy by policy."""
    base = {one.repeat: one.makespan_s for one in runs if one.policy == COMPARED_WITH}
    found = []
    for policy in policies:
        own = [one for one in runs if one.policy == policy]
        ratios = [one.ratio for one in own]
        found.append(
            Standing(
                scenario=own[0].scenario,
                policy=policy,
                makespan_s=median(one.makespan_s for one in own),
                ratio=median(ratios),
                lowest_ratio=min(ratios),
                highest_ratio=max(ratios),
                to_least_request=median(one.makespan_s / base[one.repeat] for one in own) if base else None,
                p50_s=median(one.p50_s for one in own),
                p99_s=median(one.p99_s for one in own),
                fairness=median(one.fairness for one in own),
                failed=sum(sum(one.errors.values()) for one in own),
            )
        )
    return found


def _note(runs: Sequence[Run]) -> str:
    repeats = 1 + max(one.repeat for one in runs)
    medians = f", medians of {repeats}" if repeats > 1 else ""
    return f"1 s takes {runs[0].scale:g} s here, lower bound {runs[0].bound_s:.4g} s{medians}"


HEAD = ("policy", "makespan s", "over bound", "from", "to", "least-request = 1", "p50 s", "p99 s", "fairness", "failed")


def _rows(found: Sequence[Standing]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [HEAD]
    rows += [
        (one.policy, f"{one.makespan_s:.4g}", f"{one.ratio:.3f}", f"{one.lowest_ratio:.3f}", f"{one.highest_ratio:.3f}",
         "" if one.to_least_request is None else f"{one.to_least_request:.3f}", f"{one.p50_s:.4g}", f"{one.p99_s:.4g}",
         f"{one.fairness:.3f}", str(one.failed))
        for one in found
    ]  # fmt: skip
    return rows


def _draw(scenario: Scenario, options: PolicyOptions, runs: Sequence[Run]) -> Chart:
    """Draw of each policy the run with the median makespan, of two the shorter."""
    panels = []
    for policy in options.policies:
        own = sorted((one for one in runs if one.policy == policy), key=lambda one: one.makespan_s)
        drawn = own[(len(own) - 1) // 2]
        title = f"{policy}: {drawn.ratio:.3f} x the lower bound"
        panels.append(Panel(title, len(scenario.speeds), drawn.spans, drawn.bound_s))
    return chart(scenario.title, panels)


NOTES = f"""\
Real processes: the router and simulated workers, which wait instead of computing. A bar is a piece of work; the longer
the work, the redder the bar.
The green line is the lower bound, which no schedule can beat: the larger of all work over all speeds, and the longest
piece on the fastest worker.
Times are the scenario's: what was measured, over the scale of time. What the router, the client and a busy machine
take therefore counts for more than it would in reality.
Where a scenario was played more than once, the figures are medians, from and to are the lowest and the highest ratio to
the bound, and the picture is that of the run with the median makespan. All algorithms are compared with
{COMPARED_WITH} in the same repeat.
{BY_HAND}: no router; the client spreads requests over the workers in turn. Fairness is Jain's index of the workers'
busy time, from 1/n to 1."""


def _write(options: PolicyOptions, scenes: Sequence[tuple[Scenario, list[Run], Chart]]) -> None:
    sections = [
        (scene.title, _note(runs), _rows(standings(options.policies, runs)), drawn) for scene, runs, drawn in scenes
    ]
    notes = (NOTES, f"Replies are {options.bytes_scale:g} of their real size.")
    (options.out / "policies.html").write_text(page("Routing algorithms compared", notes, sections), encoding="utf-8")
    document = json.dumps(_document(options, scenes), indent=1) + "\n"
    (options.out / "policies.json").write_text(document, encoding="utf-8")


def _document(options: PolicyOptions, scenes: Sequence[tuple[Scenario, list[Run], Chart]]) -> dict[str, object]:
    """Give what --json prints: everything but the workers' spans, which the picture shows."""
    runs = [one for _, runs, _ in scenes for one in runs]
    return {
        "seed": options.seed,
        "bytes_scale": options.bytes_scale,
        "repeat": options.repeat,
        "standings": [asdict(one) for _, played, _ in scenes for one in standings(options.policies, played)],
        "runs": [{key: value for key, value in asdict(one).items() if key != "spans"} for one in runs],
    }
