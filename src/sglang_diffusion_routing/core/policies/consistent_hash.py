"""The worker that ranks first for the work, whatever the load."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sglang_diffusion_routing.core.policies.least_request import LeastRequest
from sglang_diffusion_routing.core.worker import WorkerId


class ConsistentHash(LeastRequest):
    """argmax over the workers that can do the work of SHA-256(digest of the work, then the worker's URL).

    Rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998): when a worker
    goes, its work alone goes elsewhere, and when one comes, it takes nothing but its own. It is work of its own that
    waits for its worker, so it does not come here for one (`core/ties.py`). What has no digest, such as a request
    without a body, and what is to be spread, goes where there are the fewest pieces.
    """

    __slots__ = ()


def weight(digest: bytes, worker_id: WorkerId) -> bytes:
    """Give what the worker with the highest is first by. No chance, no order of arrival and no process plays a part."""
    return hashlib.sha256(digest + worker_id.encode()).digest()


def favourite(digest: bytes, worker_ids: Iterable[WorkerId]) -> WorkerId | None:
    """Give the first of these workers for work of this digest; None if there are none."""
    return max(worker_ids, key=lambda worker_id: weight(digest, worker_id), default=None)
