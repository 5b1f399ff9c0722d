"""The listeners of a router that does not let everybody do everything everywhere."""

from __future__ import annotations

from typing_extensions import override

from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.http1.conversation import Conversation, Limits, Server
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.proxy.access import Access
from sglang_diffusion_routing.proxy.routes import Kind, route


class Passage:
    """A listener that leaves everything to the server behind it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.limits: Limits = server.limits

    @property
    def now_s(self) -> float:
        return self._server.now_s

    @property
    def closing(self) -> bool:
        return self._server.closing

    def converse(self, connection: DownstreamConnection, head: RequestHead) -> Conversation:
        return self._server.converse(connection, head)

    def refused(
        self, error: RouterError, connection: DownstreamConnection | None = None, request_id: bytes = b""
    ) -> None:
        self._server.refused(error, connection, request_id)

    def joined(self, connection: DownstreamConnection) -> None:
        self._server.joined(connection)

    def left(self, connection: DownstreamConnection) -> None:
        self._server.left(connection)


class Bounded(Passage):
    """A listener that takes no longer bodies than a limit; those of control requests have limits of their own."""

    def __init__(self, server: Server, max_body_bytes: int) -> None:
        super().__init__(server)
        self._max_body_bytes = max_body_bytes

    @override
    def converse(self, connection: DownstreamConnection, head: RequestHead) -> Conversation:
        """Refuse a body that says that it is too long before anything is done with it."""
        if (head.content_length or head.chunked) and head.target[:1] == b"/":
            found = route(head.method, head.path, head.query)
            if found.kind is not Kind.CONTROL:
                connection.bound_body(self._max_body_bytes)
        return super().converse(connection, head)


class Door(Passage):
    """A listener before the data plane: it looks at each request before anything is done with it.

    Args:
        on_control: whether this is the listener of control alone.
    """

    def __init__(self, plane: Server, access: Access, *, on_control: bool) -> None:
        super().__init__(plane)
        self._access = access
        self._on_control = on_control

    @override
    def converse(self, connection: DownstreamConnection, head: RequestHead) -> Conversation:
        """Let the data plane say who deals with a request, if it may come in here."""
        # CONNECT, TRACE and `OPTIONS *` are about nothing that could be guarded.
        if head.target[:1] == b"/" and head.method != b"TRACE":
            found = route(head.method, head.path, head.query)
            self._access.check_place(head, found, on_control=self._on_control)
            if found.kind is not Kind.CONTROL:
                self._access.check_work(head)
        return super().converse(connection, head)
