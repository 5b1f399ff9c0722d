"""`bench serve`: load an address with so many requests at a time, and say what came of it."""

import asyncio
import csv
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sglang_diffusion_routing.cli.bench.launched import launched
from sglang_diffusion_routing.cli.bench.load import Load, load
from sglang_diffusion_routing.cli.bench.measures import Serving, percentile, reasons, serving
from sglang_diffusion_routing.cli.bench.options import ServeOptions
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.bench.requests import Request, Task, arrivals_s
from sglang_diffusion_routing.cli.processes import RouterProcess, ending, start_workers
from sglang_diffusion_routing.sim.process import SimProcess


@dataclass(frozen=True, slots=True)
class Run:
    """The setting of one run.

    num_workers: 0 when not known. request_rate: requests a second; None when the next is sent as soon as one ends.
    """

    num_workers: int
    request_rate: float | None
    max_concurrency: int

    @property
    def label(self) -> str:
        """Tell it from the others."""
        workers = f"{self.num_workers or 'given'} workers"
        if self.request_rate is None:
            return f"{workers}, {self.max_concurrency} in flight"
        return f"{workers}, {self.request_rate:g} a second, at most {self.max_concurrency} in flight"


@dataclass(frozen=True, slots=True)
class Row:
    """One run, its figures, and why requests failed, with counts. slo_s: None without one."""

    run: Run
    slo_s: float | None
    figures: Serving
    errors: dict[str, int]

    def document(self, options: ServeOptions) -> dict[str, object]:
        """Give it flat, with the names of SGLang's bench_serving."""
        return {
            "task": options.task.value,
            "num_workers": self.run.num_workers or None,
            "request_rate": self.run.request_rate,
            "max_concurrency": self.run.max_concurrency,
            "num_prompts": options.num_prompts,
            "num_outputs_per_prompt": options.shape.outputs,
            **asdict(self.figures),
            "slo": self.slo_s,
            "slo_scale": options.slo_scale,
        }


HEAD = (
    "workers", "asked/s", "in flight", "req/s", "outputs/s", "mean s", "p50", "p90", "p95", "p99", "MB/s", "failed",
    "in SLO",
)  # fmt: skip


def run(options: ServeOptions, report: Report) -> int:
    """Run every combination, show and write what came out; the status is 1 when a request failed."""
    report.line(_what(options))
    rows: list[Row] = []
    with ending() as stack:
        workers = _workers(options, stack, report)
        for count in (0,) if options.url else options.num_workers:
            with _target(options, workers[:count], stack) as url:
                slo_s = options.slo_s
                if options.warmup_requests:
                    warm = _load(options, url, Run(count, None, 1), options.warmup_requests, "warm-up", report)
                    slo_s = _slo_s(options, warm)
                for rate, in_flight in itertools.product(options.request_rate, options.max_concurrency):
                    setting = Run(count, rate, in_flight)
                    done = _load(options, url, setting, options.num_prompts, setting.label, report)
                    rows.append(Row(setting, slo_s, serving(done, slo_s), reasons(done)))
    report.table("latencies are in seconds", [HEAD, *map(_cells, rows)])
    for row in rows:
        for reason, count in row.errors.items():
            report.line(f"{row.run.label}: {count} x {reason}")
    _write(options, rows, report)
    return 1 if any(row.errors for row in rows) else 0


def _slo_s(options: ServeOptions, warm: Load) -> float | None:
    """Give the SLO: what was asked for, or so many times the median of the warm-up, whose requests came one by one."""
    if options.slo_scale is None:
        return options.slo_s
    alone_s = [outcome.seconds for outcome in warm.outcomes if not outcome.error]
    return options.slo_scale * percentile(alone_s, 50) if alone_s else None


def _what(options: ServeOptions) -> str:
    """Say what is loaded with what."""
    shape = options.shape
    if options.url:
        where = options.url
    elif options.worker_urls:
        where = f"a router before {len(options.worker_urls)} workers"
    elif options.launcher is not None:
        where = f"a router before workers of {options.launcher.model} that are started for it"
    else:
        where = f"a router before simulated workers that take {options.simulated_s:g} s a request, not a GPU's time"
    frames = f" of {shape.frames} frames" if shape.frames > 1 else ""
    return (
        f"{options.num_prompts} {options.task} requests a run to {where}: "
        f"{shape.width}x{shape.height}{frames}, {shape.steps} steps, outputs each: {shape.outputs}"
    )


def _workers(options: ServeOptions, stack: ExitStack, report: Report) -> Sequence[str]:
    """Give the addresses of all workers, starting them where none are given."""
    if options.url or options.worker_urls:
        return options.worker_urls
    if options.launcher is not None:
        return launched(options.launcher, stack, report)
    sims = [
        SimProcess(
            model="wan" if options.task is Task.VIDEO else "sd3",
            seconds_per_mpx_step=options.simulated_s / options.shape.mpx_steps,
            overhead_seconds=0.0,
        )
        for _ in range(max(options.num_workers))
    ]
    start_workers(stack, sims)
    return [sim.url for sim in sims]


@contextmanager
def _target(options: ServeOptions, workers: Sequence[str], stack: ExitStack) -> Iterator[str]:
    """Give the address to load: the given one, or that of a router before `workers`, which ends with the block."""
    if options.url:
        yield options.url
        return
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-router-")))
    flags = ["--routing-algorithm", options.policy, "--no-state", "--log-level", "warning"]
    router = RouterProcess(workers, folder / "router.log", flags)
    stack.callback(router.close)
    router.start()
    yield router.url
    router.close()


def _load(options: ServeOptions, url: str, setting: Run, count: int, label: str, report: Report) -> Load:
    """Send `count` requests and show how far they are."""
    due_s = arrivals_s(count, setting.request_rate, options.seed) if setting.request_rate else ()
    requests = [Request.of(options.task, options.shape, number, options.extra) for number in range(count)]
    with report.progress(label, count) as tick:
        return asyncio.run(load([url], requests, setting.max_concurrency, options.bounds, tick, due_s, options.key))


def _cells(row: Row) -> tuple[str, ...]:
    figures = row.figures
    latencies = (
        figures.latency_mean, figures.latency_p50, figures.latency_p90, figures.latency_p95, figures.latency_p99,
    )  # fmt: skip
    rate = figures.slo_attainment_rate
    return (
        str(row.run.num_workers or "given"),
        "" if row.run.request_rate is None else f"{row.run.request_rate:g}",
        str(row.run.max_concurrency),
        f"{figures.throughput_qps:.4g}",
        f"{figures.output_throughput_ops:.4g}",
        *(f"{seconds:.3f}" for seconds in latencies),
        f"{figures.received_bytes / 1e6 / figures.duration:.4g}",
        str(figures.failed_requests),
        "" if rate is None else f"{rate:.1%}",
    )


def _write(options: ServeOptions, rows: Sequence[Row], report: Report) -> None:
    """Write the files and the JSON that were asked for."""
    document = [{**row.document(options), "errors": row.errors} for row in rows]
    if options.as_json:
        print(json.dumps(document, indent=1))
    if options.out is None:
        return
    (options.out / "serve.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    flat = [row.document(options) for row in rows]
    with (options.out / "serve.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
    report.line(f"serve.json and serve.csv are in {options.out}.")
