"""Ask all workers for their job lists and models, and make one list of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sglang_diffusion_routing.control.broadcast import ask_all
from sglang_diffusion_routing.control.jobs import JobLocator
from sglang_diffusion_routing.control.merging import Cursor, Item, Order, Page, created_at, is_after, merge
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, WorkerApi
from sglang_diffusion_routing.core.affinity import Pinned
from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import InvalidField, NoEligibleWorker, NoWorkerAnswered

PAGE_ITEMS = 100
"""The longest page that a worker gives."""

PAGES_MAX = 100
"""Pages read of one worker for one page of ours: a worker can be asked to begin behind its own items only, so what
another worker's cursor has passed must be read and left out."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks of a list. after: id of the item behind which the page starts."""

    kind: str
    order: Order
    limit: int
    after: str | None = None


class Lists:
    """Lists over all workers; a worker that does not answer is left out.

    Args:
        timeout_s: how long a worker may take over one question.
    """

    def __init__(self, fleet: Fleet, api: WorkerApi, locator: JobLocator, *, timeout_s: float) -> None:
        self._fleet = fleet
        self._api = api
        self._locator = locator
        self._timeout_s = timeout_s

    async def jobs(self, wanted: Wanted) -> Page:
        """Merge the workers' lists of "videos" or "meshes".

        Raises:
            NoEligibleWorker: there is no worker to ask.
            NoWorkerAnswered: none gave a list.
            InvalidField: nobody knows the item to begin behind.
        """
        workers = self._to_ask()
        cursor = None if wanted.after is None else await self._cursor(workers, wanted, wanted.after)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._items(worker, place, wanted, cursor)) for place, worker in enumerate(workers)
            ]
        lists = [task.result() for task in tasks]
        if all(items is None for items in lists):
            raise NoWorkerAnswered(len(workers))
        return merge([items or [] for items in lists], wanted.order, wanted.limit)

    async def models(self) -> list[Item]:
        """Give every model that a worker serves, once each, in the order of the workers.

        Raises:
            NoEligibleWorker, NoWorkerAnswered: as for jobs.
        """
        workers = self._to_ask()
        answers = await ask_all(self._api, workers, lambda: Call("GET", "/v1/models", self._timeout_s))
        lists = [_rows(answer) for answer in answers]
        if all(rows is None for rows in lists):
            raise NoWorkerAnswered(len(workers))
        models: dict[str, Item] = {}
        for row in (row for rows in lists if rows is not None for row in rows):
            models.setdefault(str(row["id"]), row)
        return list(models.values())

    def _to_ask(self) -> list[Worker]:
        """Sleeping workers answer too; quarantined ones would only keep the client waiting."""
        workers = [w for w in self._fleet.pool.workers.values() if w.health is not Health.QUARANTINED]
        if not workers:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        return workers

    async def _cursor(self, workers: Sequence[Worker], wanted: Wanted, after: str) -> Cursor:
        """Find the worker that has the item, and when it was made."""
        owner = await self._owner(wanted.kind, after)
        for place, worker in enumerate(workers):
            if worker.worker_id == owner:
                call = Call("GET", f"/v1/{wanted.kind}/{quote(after, safe='')}", self._timeout_s)
                answer = await self._api.send(worker.url, call)
                if answer.ended is Ended.SUCCEEDED and isinstance(answer.body, dict):
                    return Cursor(place, created_at(answer.body))
        raise InvalidField("after", f"'after' names {after!r}, which no worker that answers knows")

    async def _owner(self, kind: str, job_id: str) -> WorkerId | None:
        owner = self._fleet.affinity.owner(kind, job_id, self._fleet.now_s())
        return owner.worker_id if isinstance(owner, Pinned) else await self._locator.locate(kind, job_id)

    async def _items(self, worker: Worker, place: int, wanted: Wanted, cursor: Cursor | None) -> list[Item] | None:
        """Give what a worker has behind the cursor, one item more than the page holds; None when it does not answer."""
        own = cursor is not None and cursor.place == place
        after = wanted.after if own else None
        found: list[Item] = []
        for _ in range(PAGES_MAX):
            rows = _rows(await self._api.send(worker.url, self._page(wanted, after)))
            if rows is None:
                return found or None
            behind = rows if own or cursor is None else [r for r in rows if is_after(cursor, place, r, wanted.order)]
            found += behind
            if len(found) > wanted.limit or len(rows) < PAGE_ITEMS:
                break
            after = str(rows[-1]["id"])
        return found[: wanted.limit + 1]

    def _page(self, wanted: Wanted, after: str | None) -> Call:
        behind = "" if after is None else f"&after={quote(after, safe='')}"
        target = f"/v1/{wanted.kind}?limit={PAGE_ITEMS}&order={wanted.order.value}{behind}"
        return Call("GET", target, self._timeout_s)


def _rows(answer: Answer) -> list[dict[str, Any]] | None:
    """Give the items of a worker's list; None when that is not what it answered."""
    rows = answer.body.get("data") if isinstance(answer.body, dict) else None
    if answer.ended is not Ended.SUCCEEDED or not isinstance(rows, list):
        return None
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
