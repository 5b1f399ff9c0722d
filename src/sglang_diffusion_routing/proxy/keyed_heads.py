"""Write heads so that the router's keys never reach a worker, and each worker gets its own key."""

from __future__ import annotations

from functools import lru_cache

from typing_extensions import override

from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from sglang_diffusion_routing.core.worker_keys import WorkerKeys
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import REMEMBERED_BYTES, REMEMBERED_HEADS, RequestHead
from sglang_diffusion_routing.proxy.access import Access
from sglang_diffusion_routing.proxy.heads import HeadWriter
from sglang_diffusion_routing.proxy.keys import CREDENTIALS

_AUTHORIZATION = frozenset({b"authorization"})


class KeyedHeads(HeadWriter):
    """Takes the fields in which the router's keys come off every head, and adds the worker's key."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access

    @override
    def for_worker(
        self,
        downstream: DownstreamConnection,
        head: RequestHead,
        worker_id: WorkerId,
        target: bytes,
        request_id: bytes,
        trace_id: bytes,
        *,
        may_upgrade: bool = False,
    ) -> bytes:
        access = self._access
        line = _line(access.worker_keys, worker_id)
        if access.keys or line:
            # Its own key replaces what the client says to whomever it takes for the worker.
            rewritten = _remembered if head.size_bytes <= REMEMBERED_BYTES else _without
            head = rewritten(head, CREDENTIALS if access.keys else _AUTHORIZATION, line)
        return super().for_worker(downstream, head, worker_id, target, request_id, trace_id, may_upgrade=may_upgrade)


def _without(head: RequestHead, names: frozenset[bytes], line: bytes) -> RequestHead:
    """Give a head whose block lacks some fields and has one line more; what the router reads of it stays."""
    return head.with_block_of([*(each for each in head.lines if each.partition(b":")[0].lower() not in names), line])


_remembered = lru_cache(maxsize=REMEMBERED_HEADS)(_without)


@lru_cache(maxsize=4096)
def _line(worker_keys: WorkerKeys, worker_id: WorkerId) -> bytes:
    """Give the header line with a worker's key; empty for a worker that has none, and for the control app."""
    if "://" not in worker_id:
        return b""
    key = worker_keys.find(WorkerUrl.parse(worker_id))
    return b"" if key is None else b"Authorization: Bearer %b\r\n" % key.encode()
