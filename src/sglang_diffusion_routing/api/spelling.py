"""Serve a control route however its path is spelt."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_diffusion_routing.proxy.paths import normal_path
from sglang_diffusion_routing.proxy.routes import is_control_path


class AnySpelling:
    """Bring the paths of control routes into their normal form, by which the data plane has sent them here.

    What follows `/workers/` stays raw: a worker's URL has slashes that must not be merged. Other paths, which go to
    workers by `?selector=`, stay as they came.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw: bytes = scope["raw_path"]
            normal = normal_path(raw)
            if normal != raw and is_control_path(normal):
                scope = {**scope, "path": normal.decode("utf-8", "replace")}
                if not normal.startswith(b"/workers/"):
                    scope["raw_path"] = normal
        await self._app(scope, receive, send)
