"""A listener for connections that are never listened for."""

from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.http1.conversation import Conversation, Limits
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.settings import Settings


class Silent:
    """Satisfies `Server`; no bytes ever come."""

    def __init__(self) -> None:
        self.limits: Limits = Settings()
        self.now_s = 0.0
        self.closing = False

    def converse(self, connection: DownstreamConnection, head: RequestHead) -> Conversation:
        raise NotImplementedError

    def refused(self, error: RouterError) -> None:
        raise NotImplementedError

    def joined(self, connection: DownstreamConnection) -> bool:
        raise NotImplementedError

    def left(self, connection: DownstreamConnection) -> None:
        raise NotImplementedError
