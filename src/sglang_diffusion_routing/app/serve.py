"""Run the router as a process until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop

from sglang_diffusion_routing.app import exposure, progress
from sglang_diffusion_routing.app.life import App, build
from sglang_diffusion_routing.app.open_files import raise_open_files_limit
from sglang_diffusion_routing.errors import BadSetting, InvalidWorkerUrl, StateUnusable, WorkersNotReady
from sglang_diffusion_routing.settings import Settings
from sglang_diffusion_routing.tasks import spawn

_log = structlog.get_logger(__name__)

CANNOT_LISTEN = 1
"""Exit status when the address cannot be had."""

BAD_SETTING = 2
"""Exit status when the settings name a worker that may not be one, or a state file that cannot be used."""

WORKERS_NOT_READY = 3
"""Exit status when too few of the workers that the router starts come up."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then end in order; a second signal ends at once.

    Returns:
        The exit status: 0 after an orderly end, 1 when the address cannot be had, 2 when a worker may not be one or
        the state file cannot be used, 3 when too few of the workers that it starts come up.
    """
    raise_open_files_limit(settings.max_client_connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    signals = _Signals()
    app = build(settings)
    _spare_what_stays()
    try:
        if not await _done_before(signals.first, app.start()):
            return 0
    except OSError as error:
        sys.stderr.write(f"sglang-d-router: {_why(settings, error)}\n")
        return CANNOT_LISTEN
    except (InvalidWorkerUrl, StateUnusable, BadSetting) as error:
        sys.stderr.write(f"sglang-d-router: {error.message}\n")
        return BAD_SETTING
    if app.reloads:
        signals.on_hangup(app.reloads.run)
    if app.restored:
        sys.stdout.write(f"sglang-d-router restored {app.restored}\n")
    try:
        with progress.shown(app.supervisor):
            ready = await _done_before(signals.first, app.workers_ready())
    except WorkersNotReady as error:
        await app.abort()
        _tell(error)
        return WORKERS_NOT_READY
    if ready:
        # Whoever starts the router reads its port from this line.
        scheme = "http" if settings.tls_cert is None else "https"
        sys.stdout.write(f"sglang-d-router listening on {scheme}://{_shown(settings.host)}:{app.port}\n")
        if app.admin_port is not None:
            sys.stdout.write(f"sglang-d-router control on {scheme}://{_shown(settings.admin_host)}:{app.admin_port}\n")
        sys.stdout.write("".join(f"{line}\n" for line in exposure.statement(settings)))
        sys.stdout.flush()
        if exposure.is_control_open(settings):
            _log.warning("control_is_open", to="whoever reaches the port", close="--admin-key-file or --admin-port")
    await signals.first.wait()
    await _stop(app, signals)
    return 0


async def _done_before(signalled: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do something that a signal breaks off; tell whether it was done. What it raises comes out."""
    task = spawn(work, name="start", on_error=lambda _: None)
    hurry = spawn(signalled.wait(), name="first-signal")
    await asyncio.wait([task, hurry], return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
    if task.cancelled():
        return False
    task.result()
    return True


def _tell(error: WorkersNotReady) -> None:
    """Say what is wrong with the workers, with the last lines of the log that says most."""
    lines = [f"sglang-d-router: {error.message}"]
    tail, log = error.facts["tail"], error.facts["log"]
    if isinstance(tail, list) and tail:
        lines += [f"the last lines of its log ({log}):", *(f"  | {line}" for line in tail)]
    sys.stderr.write("\n".join(lines) + "\n")


def _spare_what_stays() -> None:
    """Let the garbage collector pass over what has been imported and built: looking at it again stops all for 80 ms."""
    gc.collect()
    gc.freeze()


async def _stop(app: App, signals: _Signals) -> None:
    """End in order, or at once when a second signal comes."""
    stopping = spawn(app.stop(), name="stop")
    hurry = spawn(signals.second.wait(), name="second-signal")
    await asyncio.wait([stopping, hurry], return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stopping.done():
        _log.warning("second_signal")
        stopping.cancel()
        await asyncio.wait([stopping])
        await app.abort()


class _Signals:
    """SIGTERM and SIGINT as events, and SIGHUP as a call.

    SIGHUP ends a process unless somebody listens for it, so nobody does where there is nothing to read again: a router
    without such files ends with its terminal, as every program does.
    """

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came)

    def on_hangup(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something at each SIGHUP."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: spawn(act(), name="reload"))

    def _came(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def _why(settings: Settings, error: OSError) -> str:
    """Say in one sentence why nobody can listen at the address."""
    address = error.filename or f"{_shown(settings.host)}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {address}: the port is in use"
    reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error.strerror or error)
    return f"cannot listen on {address}: {reason}"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
