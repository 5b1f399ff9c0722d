"""Merge the job lists of many workers into one with OpenAI's cursors.

A worker lists its jobs by `created_at`, whole seconds; among equals it keeps the order of creation, whichever way the
list runs (SGLang, `openai/stores.py`). The merged order is by `created_at`, then by the worker's place in the
registration order, then by the worker's own order: the same every time, so a cursor means the same on every page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

Item = dict[str, object]


class Order(Enum):
    """Which way a list runs."""

    NEWEST_FIRST = "desc"
    OLDEST_FIRST = "asc"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The item after which a page starts.

    place: index of its worker among those asked. created_at: seconds since the epoch.
    """

    place: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the merged list."""

    items: list[Item]
    has_more: bool

    def to_wire(self) -> dict[str, object]:
        """Give the reply's body, in the shape of OpenAI's lists."""
        return {
            "object": "list",
            "data": self.items,
            "first_id": self.items[0]["id"] if self.items else None,
            "last_id": self.items[-1]["id"] if self.items else None,
            "has_more": self.has_more,
        }


def created_at(item: Item) -> int:
    """Give an item's instant of creation; 0 for an item without one, as the workers sort it."""
    at = item.get("created_at")
    return int(at) if isinstance(at, int | float) else 0


def is_after(cursor: Cursor, place: int, item: Item, order: Order) -> bool:
    """Tell whether `item`, of the worker at `place`, comes after the cursor; not for the cursor's own worker.

    That worker knows itself what comes after one of its items.
    """
    at = created_at(item)
    if at != cursor.created_at:
        return (at < cursor.created_at) is (order is Order.NEWEST_FIRST)
    return place > cursor.place


def merge(lists: Sequence[Sequence[Item]], order: Order, limit: int) -> Page:
    """Merge the workers' lists, each in its own order, into the first `limit` items.

    Args:
        lists: by place; what each worker has after the cursor, at least `limit` + 1 items of it where it has as many.
    """
    sign = -1 if order is Order.NEWEST_FIRST else 1
    rows = [
        (sign * created_at(item), place, position, item)
        for place, items in enumerate(lists)
        for position, item in enumerate(items)
    ]
    rows.sort(key=lambda row: row[:3])
    return Page([row[3] for row in rows[:limit]], has_more=len(rows) > limit)
