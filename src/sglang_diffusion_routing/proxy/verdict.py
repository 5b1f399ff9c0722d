"""What a worker's reply says about the worker."""

from __future__ import annotations

from sglang_diffusion_routing.core.work import Lease, Result
from sglang_diffusion_routing.http1.upstream import UpstreamConnection

HOLD_BYTES = 8192
"""Error replies up to this size are read whole before the client sees them; real ones have below 300 bytes."""
DOUBT_S = 0.05
"""A connection made so shortly before its worker was found to have ended may have been accepted by the next one."""


def is_telling(status: int) -> bool:
    """Tell whether the body of a reply with this status may say that the work never ran."""
    return status in {500, 503}


def result_of(status: int, body: bytes) -> Result:
    """Classify a whole reply (SGLang 0.5.23).

    A sleeping worker answers a rollout 500 `{"detail": "Server is sleeping. Call resume_memory_occupation first."}`;
    one whose scheduler process has died answers 503 `{"error": "Scheduler worker exited; ..."}`.
    """
    if status == 500 and b"Server is sleeping" in body:
        return Result.ASLEEP
    if status == 503 and b"Scheduler worker exited" in body:
        return Result.SCHEDULER_DIED
    return Result.SERVER_ERROR if status >= 500 else Result.OK


def is_from_a_stranger(lease: Lease, upstream: UpstreamConnection) -> bool:
    """Tell whether another process than the one that got the lease may have answered.

    A worker that dies and is back within milliseconds accepts the connection that was meant for its predecessor,
    and generates on whatever it has started with.
    """
    doubted_s = lease.worker.doubted_s
    return doubted_s >= lease.granted_s and upstream.made_s > doubted_s - DOUBT_S
