"""Read what workers answer: their JSON, and what they say they make."""

from __future__ import annotations

import asyncio
import json
import math

from sglang_diffusion_routing.core.worker import Capability

# Decoding 256 KiB of JSON takes about 3 ms; a longer reply would hold up the data plane on the same loop.
_IN_THREAD_BYTES = 256 * 1024


def read_capability(body: object) -> Capability | None:
    """Read a reply of `GET /v1/models`: `data[0].task_type`, `data[0].supported_task_types` and every `data[*].id`.

    Returns:
        None when `body` has not that shape.
    """
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    models = tuple(row["id"] for row in rows if isinstance(row.get("id"), str))
    first = rows[0] if rows else {}
    supported = first.get("supported_task_types")
    named = [*(supported if isinstance(supported, list) else []), first.get("task_type")]
    tasks = tuple(dict.fromkeys(task for task in named if isinstance(task, str) and task))
    return Capability(task_types=tasks or None, models=models, learned=True)


async def decode(content: bytes) -> object:
    """Decode a reply's body: JSON, else `{"raw": text}`."""
    if len(content) > _IN_THREAD_BYTES:
        return await asyncio.to_thread(decode_now, content)
    return decode_now(content)


def decode_now(content: bytes) -> object:
    """Decode JSON as RFC 8259 has it, so that what is read can be written again: no NaN, no infinities."""
    try:
        return json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return {"raw": content.decode("utf-8", "replace")}


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value
