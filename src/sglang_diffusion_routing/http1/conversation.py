"""What a client's connection needs of the one who answers it, and of its listener."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.http1.request_head import RequestHead

if TYPE_CHECKING:
    from sglang_diffusion_routing.http1.downstream import DownstreamConnection


class Conversation(Protocol):
    """One request under way, as its client's connection sees it."""

    survives_half_close: bool
    reply_begun: bool

    def client_body(self, span: bytes, done: bool) -> None:
        """Bytes of the request's body, as they came. The first call comes at once, with what is there."""

    def is_stalled(self, now_s: float, stall_s: float) -> bool:
        """Tell whether the other side has taken nothing of what waits for it for `stall_s`; asked once a second."""

    def stalled(self, stall_s: float) -> None:
        """It does not: give it up."""

    def client_gone(self) -> None:
        """The client has closed its connection."""

    def client_full(self) -> None:
        """The client reads too slowly: send no more for now."""

    def client_writable(self) -> None:
        """It has caught up."""

    def client_tunnel(self, data: bytes) -> None:
        """Raw bytes after an upgrade."""

    def client_tunnel_ended(self) -> None:
        """The client has sent its last byte on a tunnel; it may still read."""


class Limits(Protocol):
    """The settings that bound a client."""

    @property
    def max_head_bytes(self) -> int: ...
    @property
    def max_uri_bytes(self) -> int: ...
    @property
    def client_head_timeout_s(self) -> float: ...
    @property
    def client_idle_timeout_s(self) -> float: ...
    @property
    def client_body_timeout_s(self) -> float: ...
    @property
    def client_body_min_bytes(self) -> int: ...
    @property
    def stall_timeout_s(self) -> float: ...


class Server(Protocol):
    """What the connections of one listener share. now_s: loop time, at most a second old."""

    limits: Limits

    @property
    def now_s(self) -> float: ...
    @property
    def closing(self) -> bool: ...

    def converse(self, connection: DownstreamConnection, head: RequestHead) -> Conversation: ...

    def refused(
        self, error: RouterError, connection: DownstreamConnection | None = None, request_id: bytes = b""
    ) -> None:
        """An error of the router is about to be the answer; to nobody who has sent a request, without a connection."""

    def joined(self, connection: DownstreamConnection) -> None: ...

    def left(self, connection: DownstreamConnection) -> None: ...
