"""Read a request that goes to many workers: whom it is for, what they are to get, what is for the router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from fastapi import Request

from sglang_diffusion_routing.api.plane import ControlPlane
from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.parameters import OF_REFITS, read_timeout, split_query
from sglang_diffusion_routing.control.selector import EVERYONE, select
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import InvalidField

_PASSED_ON = ("content-type", "content-encoding", "accept", "authorization", "traceparent", "x-request-id")
"""Of the client's headers; the others speak of its connection to the router, or of one reply where there are many."""


@dataclass(frozen=True, slots=True)
class FanOut:
    """A request for many workers, but for its body.

    own: the router's own parameters, decoded. workers: those that `selector` names, all without one.
    timeout_s: the client's limit, None without one.
    """

    own: Mapping[str, str]
    workers: list[Worker]
    timeout_s: float | None
    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def only(self) -> frozenset[WorkerId] | None:
        """The workers that `selector` names; None without one."""
        return frozenset(worker.worker_id for worker in self.workers) if "selector" in self.own else None

    async def outgoing(self, request: Request, *, if_empty: bytes = b"") -> Outgoing:
        """Take the body in; it is the caller's to close.

        Args:
            if_empty: body to send where the client sent none.

        Raises:
            BodyTooLarge, NoDiskSpace: nothing is left behind.
        """
        spool = Spool()
        headers = dict(self.headers)
        try:
            await spool.fill(request.stream())
            if if_empty and not spool.size_bytes:
                await spool.fill(_chunks(if_empty))
                headers["content-type"] = "application/json"
        except BaseException:
            spool.close()
            raise
        return Outgoing(self.method, self.target, spool, headers)


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def read_fan_out(request: Request, plane: ControlPlane, *, is_refit: bool = False) -> FanOut:
    """Read everything but the body.

    Args:
        is_refit: whether the route changes weights, so that the parameters of refits have a meaning.

    Raises:
        InvalidField, InvalidWorkerUrl, UnknownWorker: naming the parameter that is wrong.
    """
    own, rest = split_query(request.scope["query_string"])
    for key in own:
        if key in OF_REFITS and not is_refit:
            raise InvalidField(key, f"{key!r} has no meaning on this route")
    path = request.scope["raw_path"].decode("latin-1")
    query = rest.decode("latin-1")
    return FanOut(
        own=own,
        workers=select(own.get("selector", EVERYONE), plane.fleet.pool.workers.values()),
        timeout_s=read_timeout(own),
        method=request.method,
        target=f"{path}?{query}" if query else path,
        headers={name: request.headers[name] for name in _PASSED_ON if name in request.headers},
    )
