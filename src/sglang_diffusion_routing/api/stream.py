"""`GET /events`: what happens in the fleet, as server-sent events, for the dashboard and whoever else watches."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from sglang_diffusion_routing.api import launched
from sglang_diffusion_routing.api.plane import ControlPlane, Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.replies import errors
from sglang_diffusion_routing.api.views import view_all, view_queue
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.errors import TooManyWatchers
from sglang_diffusion_routing.runtime.watch import Bar, News, Watcher

router = APIRouter(tags=["status"], dependencies=[Depends(each_once)])

MAX_WATCHERS = 32
"""Each costs a look at every worker twice a second."""

RUNNING_SHOWN = 16
"""Pieces of work under way that are told of each worker, the oldest; without a cap there may be thousands."""

_SHOWN = {
    "url",
    "display_id",
    "status",
    "reason",
    "active_requests",
    "jobs",
    "weight_version",
    "speed",
    "model",
    "max_concurrency",
    "is_dead",
    "labels",
}
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/events", response_class=StreamingResponse, responses=errors(TooManyWatchers))
async def events(
    plane: Plane, interval_s: Annotated[float, Query(ge=0.1, le=10.0, allow_inf_nan=False)] = 0.5
) -> StreamingResponse:
    """Tell of the fleet for as long as the connection stands.

    The first `frame` has every worker and what is remembered of the past, each further one what has changed since:
    {"now": Unix time, "workers": [row, ...], "removed": [url, ...], "queue": {...}, "paused", "finished": count so far,
    "targets": {group: version}, "running": [[url, route, began], ...], "bars": [[url, route, began, ended, queued_s,
    weights, result, status], ...], "changes": [[at, url, before, now], ...], "reset": begin anew}.
    Instants are Unix times in seconds.
    """
    watch = plane.fleet.watch
    if watch.count >= MAX_WATCHERS:
        raise TooManyWatchers(MAX_WATCHERS)
    return StreamingResponse(_frames(plane, watch.join(), interval_s), headers=_HEADERS, media_type="text/event-stream")


async def _frames(plane: ControlPlane, watcher: Watcher, interval_s: float) -> AsyncIterator[str]:
    watch = plane.fleet.watch
    try:
        sight = _Sight(plane)
        news = watch.past()
        watcher.take()
        ended = False
        while not ended:
            yield f"event: frame\ndata: {json.dumps(await sight.frame(news), separators=(',', ':'))}\n\n"
            ended = await watch.closed_within(interval_s)
            news = watcher.take()
            if watcher.lost:
                # It fell behind: it is told everything anew.
                watcher.lost = False
                sight, news = _Sight(plane), watch.past()
    finally:
        watch.leave(watcher)


class _Sight:
    """What one watcher has been shown."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._is_first = True
        # The loop's clock has no date.
        self._unix_s = time.time() - plane.fleet.now_s()

    async def frame(self, news: list[News]) -> dict[str, Any]:
        """Give what has changed since the last frame."""
        fleet = self._plane.fleet
        views = await view_all(fleet.pool.workers.values(), fleet.scheduler, launched.slots(self._plane))
        rows: dict[str, Mapping[str, Any]] = {view.url: view.model_dump(include=_SHOWN) for view in views}
        changed = [row for url, row in rows.items() if self._rows.get(url) != row]
        removed = [url for url in self._rows if url not in rows]
        self._rows = rows
        now_s = fleet.now_s()
        is_first, self._is_first = self._is_first, False
        return {
            "now": self._date(now_s),
            "reset": is_first,
            "workers": changed,
            "removed": removed,
            "queue": view_queue(fleet.scheduler, now_s).model_dump(),
            "paused": fleet.scheduler.paused,
            "finished": fleet.ended[Result.OK],
            "targets": {name: group.target for name, group in fleet.pool.ledger.groups.items()},
            "running": [
                [worker_id, lease.spec.route, self._date(lease.granted_s)]
                for worker_id in fleet.pool.workers
                for lease in fleet.scheduler.leases_of(worker_id)[:RUNNING_SHOWN]
            ],
            **self._told(news),
        }

    def _told(self, news: list[News]) -> dict[str, Any]:
        bars: list[list[Any]] = []
        changes: list[list[Any]] = []
        for one in news:
            if isinstance(one, Bar):
                began, ended = self._date(one.began_s), self._date(one.ended_s)
                bars.append(
                    [one.worker, one.route, began, ended, round(one.queued_s, 3), one.weights, one.result, one.status]
                )
            else:
                changes.append([self._date(one.at_s), one.worker, one.before, one.now])
        return {"bars": bars, "changes": changes}

    def _date(self, instant_s: float) -> float:
        return round(instant_s + self._unix_s, 3)
