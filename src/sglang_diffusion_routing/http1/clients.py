"""Who waits for the reply of an exchange: the client that asked, and those that have joined it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from sglang_diffusion_routing.errors import RouterError, Source
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.http1.turns import Turns

if TYPE_CHECKING:
    from sglang_diffusion_routing.http1.joined import Joined

_log = structlog.get_logger(__name__)


class Clients(Turns):
    """The clients of one exchange.

    origin: the connection of the client that asked, also after it has gone; downstream: None from then on.
    """

    # One is made for every request. Slots, here and below: CPython 3.11 finds an attribute of one that has more than 30
    # of them, or whose default is its class's, ten times slower. `Exchange` sets them all, for each frame is 60 ns.
    __slots__ = ("_joined", "downstream", "head", "origin", "reply_begun", "request_id")

    survives_half_close = False
    request_id: bytes
    reply_begun: bool
    origin: DownstreamConnection
    downstream: DownstreamConnection | None
    head: RequestHead
    _joined: tuple[Joined, ...]

    @property
    def has_clients(self) -> bool:
        """Whether anybody still waits for the reply."""
        return self.downstream is not None or bool(self._joined)

    @property
    def _is_held_up(self) -> bool:
        slow = self.downstream is not None and self.downstream.is_full
        return slow or any(joined.full for joined in self._joined)

    def _write(self, span: bytes) -> None:
        if self.downstream is not None:
            self.downstream.write(span)
        for joined in self._joined:
            joined.write(span)

    def _leave_clients(self) -> tuple[DownstreamConnection | None, tuple[Joined, ...]]:
        """Be without clients from now on; give those that were there, who have to be told."""
        clients = self.downstream, self._joined
        self.downstream = None
        self._joined = ()
        return clients

    def _refuse(self, clients: tuple[DownstreamConnection | None, tuple[Joined, ...]], error: RouterError) -> None:
        """Answer clients that were left with an error of the router; nothing of a reply has been sent."""
        downstream, joined = clients
        if error.source is Source.WORKER and (downstream is not None or joined):
            request_id = self.request_id.decode("latin-1")
            _log.warning("request_failed", request_id=request_id, code=error.code, why=error.message)
        if downstream is not None:
            downstream.refuse(error, request_id=self.request_id)
        for other in joined:
            other.refuse(error, self.request_id)

    def client_tunnel(self, data: bytes) -> None:
        """Never called: a tunnel is a conversation of its own."""

    def client_tunnel_ended(self) -> None:
        """Never called either."""
