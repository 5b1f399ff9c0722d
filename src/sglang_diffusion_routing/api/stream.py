"""`GET /events`: what happens in the fleet, as server-sent events, for the dashboard and whoever else watches."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from sglang_diffusion_routing.api import launched
from sglang_diffusion_routing.api.plane import ControlPlane, Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.replies import errors
from sglang_diffusion_routing.api.views import view_all, view_queue
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.errors import TooManyWatchers
from sglang_diffusion_routing.runtime.watch import Bar, News, Watcher
from sglang_diffusion_routing.schemas import WorkerView

Row = Mapping[str, Any]

router = APIRouter(tags=["status"], dependencies=[Depends(each_once)])

MAX_WATCHERS = 32
SHORTEST_S, LONGEST_S = 0.1, 10.0
FRESH_S = 0.8 * SHORTEST_S
"""For so long a look at the workers serves all who watch. It is less than the shortest interval: who watches alone is
told what is so now, and a crowd costs little more than ten looks a second."""
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
    "launcher",
}
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/events", response_class=StreamingResponse, responses=errors(TooManyWatchers))
async def events(
    request: Request,
    plane: Plane,
    interval_s: Annotated[float, Query(ge=SHORTEST_S, le=LONGEST_S, allow_inf_nan=False)] = 0.5,
) -> StreamingResponse:
    """Tell of the fleet for as long as the connection stands.

    The first `frame` has every worker and what is remembered of the past, each further one what has changed since:
    {"now": Unix time, "workers": [row, ...], "removed": [url, ...], "queue": {...}, "paused", "finished": count so far,
    "targets": {group: version}, "running": [[url, route, began], ...], "bars": [[url, route, began, ended, queued_s,
    weights, result, status, piece], ...], "thumbnails": [[name, at, url, route, weights, piece, width, height], ...],
    "changes": [[at, url, before, now], ...], "reset": begin anew}. A thumbnail's `piece` is that of its bar.
    Instants are Unix times in seconds.
    """
    shown: Shown = request.app.state.shown
    watch = plane.fleet.watch
    if watch.count >= MAX_WATCHERS:
        raise TooManyWatchers(MAX_WATCHERS)
    return StreamingResponse(
        _frames(plane, shown, watch.join(), interval_s), headers=_HEADERS, media_type="text/event-stream"
    )


class Shown:
    """The workers and what they are at, looked at once for all who watch."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._looking = asyncio.Lock()
        self._at_s = -math.inf
        self._rows: Mapping[str, Row] = {}
        self._running: Sequence[tuple[str, str, float]] = ()

    async def look(self) -> tuple[Mapping[str, Row], Sequence[tuple[str, str, float]]]:
        """Give a row of each worker, by URL, and worker, route and beginning of what is under way."""
        fleet = self._plane.fleet
        async with self._looking:
            if fleet.now_s() - self._at_s >= FRESH_S:
                self._at_s = fleet.now_s()
                slots = launched.slots(self._plane)
                views = await view_all(fleet.pool.workers.values(), fleet.scheduler, slots)
                self._running = [
                    (worker_id, lease.spec.route, lease.granted_s)
                    for worker_id in fleet.pool.workers
                    for lease in fleet.scheduler.leases_of(worker_id)[:RUNNING_SHOWN]
                ]
                self._rows = await asyncio.to_thread(_rows, views)
            return self._rows, self._running


def _rows(views: Iterable[WorkerView]) -> Mapping[str, Row]:
    return {view.url: view.model_dump(include=_SHOWN) for view in views}


async def _frames(plane: ControlPlane, shown: Shown, watcher: Watcher, interval_s: float) -> AsyncIterator[str]:
    watch = plane.fleet.watch
    try:
        sight = _Sight(plane, shown)
        news = watch.past()
        watcher.take()
        ended = False
        while not ended:
            yield await asyncio.to_thread(_written, await sight.frame(news))
            ended = await watch.closed_within(interval_s)
            news = watcher.take()
            if watcher.lost:
                # It fell behind: it is told everything anew.
                watcher.lost = False
                sight, news = _Sight(plane, shown), watch.past()
    finally:
        watch.leave(watcher)


def _written(frame: Mapping[str, Any]) -> str:
    return f"event: frame\ndata: {json.dumps(frame, separators=(',', ':'))}\n\n"


class _Sight:
    """What one watcher has been shown."""

    def __init__(self, plane: ControlPlane, shown: Shown) -> None:
        self._fleet = fleet = plane.fleet
        self._gallery = plane.gallery
        self._thumbnails = 0
        self._shown = shown
        self._rows: Mapping[str, Row] = {}
        self._is_first = True
        # The loop's clock has no date.
        self._unix_s = time.time() - fleet.now_s()

    async def frame(self, news: list[News]) -> dict[str, Any]:
        """Give what has changed since the last frame."""
        fleet, before = self._fleet, self._rows
        rows, running = await self._shown.look()
        self._rows = rows
        now_s = fleet.now_s()
        is_first, self._is_first = self._is_first, False
        return {
            "now": self._date(now_s),
            "reset": is_first,
            "workers": [row for url, row in rows.items() if before.get(url) != row],
            "removed": [url for url in before if url not in rows],
            "queue": view_queue(fleet.scheduler, now_s).model_dump(),
            "paused": fleet.scheduler.paused,
            "finished": fleet.ended[Result.OK],
            "targets": {name: group.target for name, group in fleet.pool.ledger.groups.items()},
            "running": [[worker_id, route, self._date(began_s)] for worker_id, route, began_s in running],
            "thumbnails": self._made(),
            **self._told(news),
        }

    def _made(self) -> list[list[Any]]:
        """Give the images that have come since the last frame."""
        made = [] if self._gallery is None else self._gallery.after(self._thumbnails)
        if made:
            self._thumbnails = made[-1].sequence
        return [
            [
                one.name,
                self._date(one.at_s),
                one.worker,
                one.route,
                one.weights,
                one.piece,
                one.picture.width,
                one.picture.height,
            ]
            for one in made
        ]

    def _told(self, news: list[News]) -> dict[str, Any]:
        bars: list[list[Any]] = []
        changes: list[list[Any]] = []
        for one in news:
            if isinstance(one, Bar):
                began, ended = self._date(one.began_s), self._date(one.ended_s)
                queued_s = round(one.queued_s, 3)
                bars.append(
                    [one.worker, one.route, began, ended, queued_s, one.weights, one.result, one.status, one.piece]
                )
            else:
                changes.append([self._date(one.at_s), one.worker, one.before, one.now])
        return {"bars": bars, "changes": changes}

    def _date(self, instant_s: float) -> float:
        return round(instant_s + self._unix_s, 3)
