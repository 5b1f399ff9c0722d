"""Turn what workers answered into the rows of a fan-out's reply."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_diffusion_routing.control.ports import Ending
from sglang_diffusion_routing.control.worker_api import Answer
from sglang_diffusion_routing.core.commands import Outcome
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.schemas import FanOutReply, FanOutRow, SkippedRow

_STATUS_OF = {Outcome.LOST: 502, Outcome.EXPIRED: 504}
_CONFLICT = 409
"""Refused, superseded or not allowed: the worker is as it was."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A worker that was asked for something that takes time."""

    worker: Worker
    ending: asyncio.Future[Ending]


def skipped(worker: Worker, reason: str) -> SkippedRow:
    """Say why a worker was not asked."""
    return SkippedRow(worker_url=worker.worker_id, reason=reason)


def row_of_answer(worker: Worker, answer: Answer) -> FanOutRow:
    """Show a worker's own answer; 502 when it was lost."""
    return FanOutRow(worker_url=worker.worker_id, status_code=answer.status_code, body=answer.body)


def row_of_ending(worker: Worker, ending: Ending, done: object) -> FanOutRow:
    """Show how what was asked of a worker ended.

    Args:
        done: body for what was the case already, so that no call was made.
    """
    if ending.answer is not None:
        return row_of_answer(worker, ending.answer)
    if ending.outcome is Outcome.DONE:
        return FanOutRow(worker_url=worker.worker_id, status_code=200, body=done)
    status = _STATUS_OF.get(ending.outcome, _CONFLICT)
    error = ending.reason or ending.outcome.value
    return FanOutRow(worker_url=worker.worker_id, status_code=status, body={"error": error})


def is_good(row: FanOutRow) -> bool:
    """Tell whether a row says that the worker did it; `success: false` inside a 200 does not."""
    return row.status_code < 300 and not (isinstance(row.body, dict) and row.body.get("success") is False)


def reply(
    rows: Sequence[FanOutRow],
    skips: Sequence[SkippedRow],
    *,
    message: str | None = None,
    version: str | None = None,
    refit: str | None = None,
) -> FanOutReply:
    """Put a fan-out's reply together."""
    return FanOutReply(
        results=list(rows),
        success=all(is_good(row) for row in rows),
        skipped=list(skips),
        message=message,
        weight_version=version,
        refit=refit,
    )


async def endings(asked: Sequence[Asked], limit_s: float) -> list[Ending]:
    """Wait for all that was asked; what has not ended after `limit_s` is lost."""
    if asked:
        await asyncio.wait([one.ending for one in asked], timeout=limit_s)
    late = Ending(Outcome.LOST, f"not done within {limit_s:g} s")
    return [one.ending.result() if one.ending.done() else late for one in asked]
