"""Show a person at a terminal how far the workers are that are being started; models load for minutes.

Where nobody looks, the log's lines (`slot_loading`, `slot_ready`, ...) say the same.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sglang_diffusion_routing.launchers.slots import Phase, SlotView
from sglang_diffusion_routing.launchers.supervisor import Supervisor
from sglang_diffusion_routing.tasks import spawn

if TYPE_CHECKING:  # a table for people costs the router's start 60 ms
    from rich.live import Live
    from rich.table import Table

REFRESH_S = 0.5

_STYLES = {
    Phase.READY: "green",
    Phase.BACKING_OFF: "yellow",
    Phase.WAITING: "yellow",
    Phase.CRASH_LOOPING: "red",
    Phase.STOPPED: "dim",
}


@contextmanager
def shown(supervisor: Supervisor | None) -> Iterator[None]:
    """Show the slots for as long as the block lasts, if standard error is a terminal."""
    if supervisor is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live, _log_above():
        task = spawn(_refresh(live, supervisor), name="progress")
        try:
            yield
        finally:
            task.cancel()


async def _refresh(live: Live, supervisor: Supervisor) -> None:
    while True:
        live.update(table(supervisor.slots, asyncio.get_running_loop().time()), refresh=True)
        await asyncio.sleep(REFRESH_S)


@contextmanager
def _log_above() -> Iterator[None]:
    """Let the log's lines go above the table: they would tear it otherwise."""
    handlers = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    before = [(handler, handler.setStream(sys.stderr)) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in before:
            if stream is not None:
                handler.setStream(stream)


def table(slots: Sequence[SlotView], now_s: float) -> Table:
    """Make the table: a worker a line, with its phase, for how long, and the last thing it has said."""
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for title in ("worker", "phase", "for", "starts"):
        made.add_column(title, no_wrap=True, justify="right" if title in {"for", "starts"} else "left")
    made.add_column("", no_wrap=True, overflow="ellipsis")
    for slot in slots:
        style = _STYLES.get(slot.phase, "")
        phase = slot.phase.value.replace("_", " ")
        made.add_row(
            slot.url or str(slot.slot),
            f"[{style}]{phase}[/]" if style else phase,
            clock(now_s - slot.since_s),
            str(slot.restarts + 1),
            escape(". ".join(filter(None, [slot.reason, *slot.tail[-1:]]))),
        )
    return made


def clock(seconds: float) -> str:
    """Write a time as a clock does: 0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
