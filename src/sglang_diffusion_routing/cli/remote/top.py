"""`top`: the fleet as it works, again and again."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sglang_diffusion_routing.cli.remote.screen import Screen, printable
from sglang_diffusion_routing.client import Client, ClientError

_BAR = 8
_STYLES = {"active": "green", "quarantined": "red", "suspect": "red", "stale": "yellow", "sleeping": "blue"}


def add_top(parser: argparse.ArgumentParser) -> None:
    """Take how often, and for how long."""
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between looks (default 1)")
    parser.add_argument("--once", action="store_true", help="look once; also where the output is no terminal")


def top(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Show who works, until Ctrl-C."""
    watch = Watch(client)
    first = watch.look()
    if screen.as_json:
        screen.document(first)
        return 0
    if chosen.once or not sys.stdout.isatty():
        screen.console.print(frame(first, screen.console.width))
        return 0
    interval_s = max(chosen.interval, 0.1)
    with Live(frame(first, screen.console.width), console=screen.console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            try:
                shown = frame(watch.look(), screen.console.width)
            except ClientError as error:
                # It may be back: a restart takes a second.
                shown = Group(Text(f"no answer: {printable(str(error))}", style="red"))
            live.update(shown, refresh=True)


class Watch:
    """Looks at a router, and remembers the look before, for rates."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._before: tuple[float, float] | None = None

    def look(self) -> dict[str, Any]:
        """Give workers, queue, and what was finished a second since the last look (None the first time)."""
        listed = self._client.get("/workers")
        done, now_s = _finished(self._client.text("/metrics")), time.monotonic()
        per_s = None
        if self._before is not None and now_s > self._before[1]:
            # A router that was restarted begins to count anew.
            per_s = max(done - self._before[0], 0.0) / (now_s - self._before[1])
        self._before = (done, now_s)
        return {**listed, "finished_per_second": per_s, "url": self._client.url}


def _finished(metrics: str) -> float:
    for family in text_string_to_metric_families(metrics):
        if family.name == "sgld_router_leases_ended":
            return sum(sample.value for sample in family.samples if sample.labels.get("result") == "ok")
    return 0.0


def frame(seen: Mapping[str, Any], width: int) -> RenderableType:
    """Draw one look for a terminal of so many columns; a narrow one leaves out what matters less."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    columns = [column for column in _COLUMNS if width >= column.from_width]
    for column in columns:
        table.add_column(column.name, no_wrap=True, overflow="ellipsis", justify=column.justify, ratio=column.ratio)
    for worker in seen["workers"]:
        style = _STYLES.get(worker["status"], "")
        table.add_row(
            *(Text(printable(column.read(worker)), style if column.name == "status" else "") for column in columns)
        )
    return Group(Text(printable(_summary(seen)), style="bold"), Text(""), table)


def _summary(seen: Mapping[str, Any]) -> str:
    workers, queue, per_s = seen["workers"], seen["queue"], seen["finished_per_second"]
    counts = Counter(worker["status"] for worker in workers)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no workers"
    running = sum(worker["active_requests"] for worker in workers)
    oldest = "" if queue["oldest_seconds"] is None else f" (oldest {queue['oldest_seconds']:.0f} s)"
    rate = "" if per_s is None else f"   {per_s:.1f} finished a second"
    return f"{seen['url']}   {told}   {running} running, {queue['requests']} waiting{oldest}{rate}"


def _bar(worker: Mapping[str, Any]) -> str:
    """Draw what a worker has: a block for each piece, or their number when there are many."""
    active = worker["active_requests"]
    return "█" * active if active <= _BAR else f"█ x {active}"


class _Column(NamedTuple):
    """from_width: columns of the terminal from which it is shown. ratio: its share of the room that is left."""

    name: str
    read: Callable[[Mapping[str, Any]], str]
    from_width: int = 0
    justify: Literal["left", "right"] = "left"
    ratio: int | None = None


_COLUMNS = (
    _Column("worker", lambda worker: str(worker["display_id"])),
    _Column("status", lambda worker: str(worker["status"])),
    _Column("load", _bar),
    _Column("weights", lambda worker: worker["weight_version"] or "?", 70),
    _Column("speed", lambda worker: "" if worker["speed"] is None else f"{worker['speed']:.3g}", 80, "right"),
    _Column("why", lambda worker: str(worker["reason"]), 100, ratio=1),
)
