"""The listeners of a router that does not let everybody do everything everywhere."""

from __future__ import annotations

from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.http1.conversation import Conversation, Limits, Server
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.proxy.access import Access
from sglang_diffusion_routing.proxy.routes import Kind, route


class Door:
    """A listener before the data plane: it looks at each request before anything is done with it.

    Args:
        on_control: whether this is the listener of control alone.
    """

    def __init__(self, plane: Server, access: Access, *, on_control: bool) -> None:
        self._plane = plane
        self._access = access
        self._on_control = on_control
        self.limits: Limits = plane.limits

    @property
    def now_s(self) -> float:
        return self._plane.now_s

    @property
    def closing(self) -> bool:
        return self._plane.closing

    def converse(self, connection: DownstreamConnection, head: RequestHead) -> Conversation:
        """Let the data plane say who deals with a request, if it may come in here."""
        # CONNECT, TRACE and `OPTIONS *` are about nothing that could be guarded.
        if head.target[:1] == b"/" and head.method != b"TRACE":
            found = route(head.method, head.path, head.query)
            self._access.check_place(head, found, on_control=self._on_control)
            if found.kind is not Kind.CONTROL:
                self._access.check_work(connection, head)
        return self._plane.converse(connection, head)

    def refused(
        self, error: RouterError, connection: DownstreamConnection | None = None, request_id: bytes = b""
    ) -> None:
        self._plane.refused(error, connection, request_id)

    def joined(self, connection: DownstreamConnection) -> None:
        self._plane.joined(connection)

    def left(self, connection: DownstreamConnection) -> None:
        self._plane.left(connection)
