"""A piece of work whose images are shown: its reply is looked at as it passes, which changes nothing about it."""

from __future__ import annotations

from sglang_diffusion_routing.core.weights import shown_version
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.proxy.ports import Gallery, ReplyCopy
from sglang_diffusion_routing.proxy.routes import Route
from sglang_diffusion_routing.proxy.shared import Shared
from sglang_diffusion_routing.proxy.work import Work

WITH_IMAGES = frozenset({"images_generations", "images_edits", "diffusion", "rollout"})
"""Routes whose replies may hold images themselves."""


class ShownWork(Work):
    """Work in front of a gallery."""

    __slots__ = ("_copy", "_gallery")

    def __init__(
        self, shared: Shared, downstream: DownstreamConnection, head: RequestHead, route: Route, gallery: Gallery
    ) -> None:
        super().__init__(shared, downstream, head, route)
        self._gallery = gallery
        self._copy: ReplyCopy | None = None

    def reply_lines(self, head: ReplyHead) -> bytes:
        lease, worker = self._lease, self._worker
        if head.status == 200 and lease is not None and worker is not None and self._route.name in WITH_IMAGES:
            weights = shown_version(self._loaded) if worker.updates == self._updates else None
            # For an HTTP/1.0 client the chunks are decoded already.
            self._copy = self._gallery.collect(lease, weights, is_chunked=head.chunked and not self.head.http_10)
        return super().reply_lines(head)

    def on_reply_body(self, span: bytes) -> None:
        if self._copy is not None:
            self._copy.take(span)
        super().on_reply_body(span)

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        if self._copy is not None:
            self._copy.end(whole=whole)
        super().on_end(whole=whole, head=head)
