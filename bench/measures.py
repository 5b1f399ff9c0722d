"""The measures: each starts its contestants, loads them in turn, round by round, and gives rows of a report."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import contestants
from backend import hosts
from contestants import OURS, Contestant
from processes import Child, Failed, free_port
from report import Row

MIB = 2**20
CLIENT_S = 150.0
CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Run:
    """What is the same for all measures of one run: a scratch folder, the rounds, SMG's program, versions seen."""

    folder: Path
    rounds: int
    smg: str | None
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Load:
    """One client run against one contestant: wall time, the proxy's CPU, requests or bytes."""

    seconds: float
    cpu_s: float
    count: int


@contextmanager
def backend(run: Run, addresses: int) -> Iterator[list[str]]:
    """Run the backend and give the addresses of its workers."""
    port = free_port()
    log = run.folder / f"backend-{port}.log"
    child = Child([sys.executable, str(Path(__file__).with_name("backend.py")), str(port), str(addresses)], log)
    try:
        child.wait_until(lambda: b"ready" in log.read_bytes())
        yield [f"{host}:{port}" for host in hosts(addresses)]
    finally:
        child.stop()


@contextmanager
def running(run: Run, starts: Sequence[Callable[[], Contestant]]) -> Iterator[tuple[list[Contestant], str]]:
    """Start contestants one after the other; give them and why others are missing; stop them all at the end.

    The first start is this router's: without it there is nothing to measure.
    """
    started: list[Contestant] = []
    missing = []
    try:
        for start in starts:
            try:
                started.append(start())
            except Failed as why:
                if not started:
                    raise
                missing.append(str(why))
                continue
            run.versions[started[-1].family] = started[-1].version
        yield started, "; ".join(dict.fromkeys(missing))
    finally:
        for contestant in started:
            contestant.stop()


def load(contestant: Contestant, *arguments: object) -> Load:
    """Run one client; raise Failed with its words when it does not end well."""
    program = [sys.executable, str(Path(__file__).with_name("clients.py"))]
    kind, *rest = [str(argument) for argument in arguments]
    command = [*program, kind, str(contestant.port), *rest]
    before_s = contestant.process.cpu_s()
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=CLIENT_S)
    if done.returncode != 0:
        raise Failed(f"{contestant.name}: {done.stderr.strip()[-500:]}")
    seen = json.loads(done.stdout)
    return Load(seen["seconds"], contestant.process.cpu_s() - before_s, seen["count"])


Found = dict[str, list[float]]
"""What was measured, by contestant, round after round."""


def in_rounds(rounds: int, entries: Sequence[Contestant], measure: Callable[[Contestant], float]) -> Found:
    """Measure A, B, C, A, B, C, ..., so that what disturbs the machine disturbs all alike."""
    found: Found = {entry.name: [] for entry in entries}
    for entry in entries:
        measure(entry)  # to warm up: connections, caches, allocators
    for _ in range(rounds):
        for entry in entries:
            found[entry.name].append(measure(entry))
    return found


def ratio(found: Found, ours: str, theirs: str) -> float | None:
    """Give the median of the ratios within each round; None when the other one is missing."""
    if theirs not in found:
        return None
    return median(mine / other for mine, other in zip(found[ours], found[theirs], strict=True))


def medians(found: Found) -> dict[str, float]:
    return {name: median(values) for name, values in found.items()}


def cpu_us_a_post(entry: Contestant, *, requests: int) -> float:
    """Send small POSTs and give the proxy's CPU for each, in microseconds."""
    used = load(entry, "posts", CONNECTIONS, requests)
    return used.cpu_s * 1e6 / used.count


def small_posts(run: Run) -> list[Row]:
    """CPU of the proxy's processes for each small POST."""
    with backend(run, 2) as workers:
        starts: list[Callable[[], Contestant]] = [
            partial(start, run.folder, workers)
            for start in (contestants.router, contestants.nginx, contestants.haproxy)
        ]
        starts += [partial(contestants.smg, run.folder, workers, run.smg, stripped=how) for how in (False, True)]
        with running(run, starts) as (entries, missing):
            found = in_rounds(run.rounds, entries, partial(cpu_us_a_post, requests=30_000))
    unit = "microseconds of CPU a request"
    return [
        Row("small POST", unit, medians(found), ratio(found, OURS, "nginx"), "this router / nginx", 2.5, note=missing),
        Row("small POST", unit, {}, ratio(found, OURS, "SMG"), "this router / SMG", 1 / 3),
    ]


def large_replies(run: Run) -> list[Row]:
    """Bytes a second of large replies, on all cores."""
    rows = []
    with backend(run, 2) as workers:
        starts = [
            partial(contestants.router, run.folder, workers),
            *(partial(contestants.nginx, run.folder, workers, name) for name in contestants.BUFFERING),
            partial(contestants.haproxy, run.folder, workers),
        ]
        with running(run, starts) as (entries, missing):
            for size, connections, requests in ((1_500_000, 4, 250), (200_000_000, 2, 5)):
                fetch = partial(megabytes_a_second, connections=connections, requests=requests, size=size)
                found = in_rounds(run.rounds, entries, fetch)
                name, unit = f"replies of {size / 1e6:g} MB", "MB a second"
                for theirs in contestants.BUFFERING:
                    values = medians(found) if theirs == "nginx" else {}
                    # Beside what nginx does as it comes, what it can do is good to know.
                    limit = None if theirs == contestants.LARGE_BUFFERS else 0.9
                    figure = ratio(found, OURS, theirs)
                    rows.append(
                        Row(name, unit, values, figure, f"this router / {theirs}", limit, at_least=True, note=missing)
                    )
                    missing = ""
    return rows


def megabytes_a_second(entry: Contestant, *, connections: int, requests: int, size: int) -> float:
    """Fetch replies as fast as they come."""
    used = load(entry, "replies", connections, requests, size)
    return used.count / used.seconds / 1e6


def memory(run: Run) -> list[Row]:
    """How much the router grows under 64 bodies of 256 MiB whose receivers are slow."""
    kinds = {
        "replies to slow readers": ("slow-readers", 64, 256 * MIB, 8),
        "sized uploads to a slow worker": ("uploads", 64, 256 * MIB, 8, "sized"),
        "chunked uploads to a slow worker": ("uploads", 64, 256 * MIB, 8, "chunked"),
    }
    rows = []
    for name, arguments in kinds.items():
        with (
            backend(run, 2) as workers,
            running(run, [lambda workers=workers: contestants.router(run.folder, workers)]) as ((entry,), _),
        ):
            load(entry, "posts", CONNECTIONS, 2000)
            before = entry.process.rss_bytes()
            entry.process.reset_peak()
            used = load(entry, *arguments)
            growth = (entry.process.peak_rss_bytes() - before) / MIB
        note = f"16 GiB in {used.seconds:.0f} s; resident before: {before / MIB:.0f} MiB"
        rows.append(Row(f"64 x 256 MiB, {name}", "MiB", {OURS: growth}, growth, "growth at its peak", 64, note=note))
    return rows


def many_workers(run: Run) -> list[Row]:
    """CPU for each small POST with 1,000 registered workers and with two."""
    with backend(run, 1000) as workers:
        starts = [
            lambda: contestants.router(run.folder, workers[:2], name="2 workers"),
            lambda: contestants.router(run.folder, workers, name="1,000 workers"),
        ]
        with running(run, starts) as (entries, _):
            found = in_rounds(run.rounds, entries, partial(cpu_us_a_post, requests=15_000))
    figure = ratio(found, "1,000 workers", "2 workers")
    note = "with all that goes on beside the requests: probes and sentinel connections to every worker"
    unit = "microseconds of CPU a request"
    return [Row("registered workers", unit, medians(found), figure, "1,000 workers / 2 workers", 1.3, note=note)]


MEASURES: dict[str, Callable[[Run], list[Row]]] = {
    "small-posts": small_posts,
    "large-replies": large_replies,
    "memory": memory,
    "many-workers": many_workers,
}
