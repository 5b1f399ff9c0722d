"""A client that repeats a request which is under way: it gets the same reply, without the work being done again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.http1.downstream import DownstreamConnection

if TYPE_CHECKING:
    from sglang_diffusion_routing.http1.relay import Exchange


class Joined:
    """One more client of an exchange whose request is whole and whose reply has not begun.

    full: it reads too slowly, so the worker is paused.
    """

    survives_half_close = False
    reply_begun = False

    def __init__(self, exchange: Exchange, downstream: DownstreamConnection) -> None:
        self._exchange = exchange
        self.downstream: DownstreamConnection | None = downstream
        self.full = downstream.is_full
        self.close = False

    def begin(self, start: bytes) -> None:
        """Send the reply's head, of which only what concerns this connection is missing."""
        self.reply_begun = True
        downstream = self.downstream
        if downstream is not None:
            self.close = downstream.must_close()
            downstream.write(start + (b"Connection: close\r\n\r\n" if self.close else b"\r\n"))

    def write(self, span: bytes) -> None:
        if self.downstream is not None:
            self.downstream.write(span)

    def finish(self) -> None:
        downstream = self._leave()
        if downstream is not None:
            downstream.reply_done(close=self.close)

    def refuse(self, error: RouterError, request_id: bytes) -> None:
        downstream = self._leave()
        if downstream is not None:
            downstream.refuse(error, request_id=request_id)

    def abort(self) -> None:
        downstream = self._leave()
        if downstream is not None:
            downstream.abort()

    def _leave(self) -> DownstreamConnection | None:
        downstream = self.downstream
        self.downstream = None
        return downstream

    # Conversation

    def client_body(self, span: bytes, done: bool) -> None:
        """The body is the first request's: this one is read and dropped."""

    def is_stalled(self, now_s: float, stall_s: float) -> bool:
        """The first request's own connection sees to that."""
        return False

    def stalled(self, stall_s: float) -> None:
        """Never called."""

    def client_gone(self) -> None:
        self.downstream = None
        self._exchange.joined_gone(self)

    def client_full(self) -> None:
        self.full = True
        self._exchange.pause_upstream()

    def client_writable(self) -> None:
        self.full = False
        self._exchange.resume_upstream()

    def client_tunnel(self, data: bytes) -> None:
        """Never called."""

    def client_tunnel_ended(self) -> None:
        """Never called."""
