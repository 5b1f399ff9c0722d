"""Hold the queue, let it go on, or drop what is in it: `/pause_generation` and its companions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.core.work import WorkSpec
from sglang_diffusion_routing.errors import Aborted

_log = structlog.get_logger(__name__)


class Gate:
    """The queue, for an operator. Work that runs is left alone."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._timer: asyncio.TimerHandle | None = None

    def pause(self, timeout_s: float | None) -> int:
        """Grant nothing until told to go on, or until `timeout_s` has passed; give the number of queued requests."""
        self._stop_timer()
        self._fleet.pause()
        if timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self._time_is_up)
        _log.info("queue_paused", queued=self._fleet.scheduler.queued, timeout_s=timeout_s)
        return self._fleet.scheduler.queued

    def resume(self) -> int:
        """Let the queue go on; give the number of requests that still wait."""
        self._stop_timer()
        self._fleet.resume()
        _log.info("queue_resumed", queued=self._fleet.scheduler.queued)
        return self._fleet.scheduler.queued

    def abort(self, *, request_id: str | None = None, group: str | None = None) -> int:
        """Refuse what is queued: one request, a group, or everything; give its number."""
        matches: Callable[[WorkSpec], bool] | None = None
        if request_id is not None:
            matches = lambda spec: spec.request_id == request_id  # noqa: E731 - one of two conditions
        elif group is not None:
            matches = lambda spec: spec.group == group  # noqa: E731
        dropped = self._fleet.drop_queued(Aborted(), matches)
        _log.info("queue_dropped", requests=dropped)
        return dropped

    def _time_is_up(self) -> None:
        self._timer = None
        self.resume()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
