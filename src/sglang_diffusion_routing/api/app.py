"""Put the control API together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing.api import (
    docs,
    errors,
    jobs,
    launched,
    legacy,
    models,
    refits,
    rl,
    status,
    stream,
    thumbnails,
    weights,
    workers,
)
from sglang_diffusion_routing.api.audited import Audited
from sglang_diffusion_routing.api.bound import Bound
from sglang_diffusion_routing.api.durable import SavedFirst
from sglang_diffusion_routing.api.plane import ControlPlane
from sglang_diffusion_routing.api.spelling import AnySpelling
from sglang_diffusion_routing.schemas import ErrorReply

_DESCRIPTION = (
    "Control of the router. Work (`/v1/images/...`, `/v1/videos`, `/rollout/generate`, ...) goes to the workers and is "
    "described by theirs. Every error of the router is `{error, code, ...facts}`."
)


def document() -> dict[str, Any]:
    """Give the OpenAPI document of the control API."""
    return _application().openapi()


def _application() -> FastAPI:
    """Give the routes."""
    app = FastAPI(
        title="sglang-d-router",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        # A redirect would have to guess the address under which the client knows the router.
        redirect_slashes=False,
        responses={"4XX": {"model": ErrorReply, "description": "The request is wrong; `code` and the facts say how."}},
    )
    for part in (launched, workers, jobs, models, rl, refits, weights, status, stream, thumbnails, legacy, docs):
        app.include_router(part.router)
    return app


def build(plane: ControlPlane, *pages: APIRouter) -> ASGIApp:
    """Give the control API as an ASGI application, with some pages for people."""
    app = _application()
    app.state.plane = plane
    app.state.shown = stream.Shown(plane)
    for page in pages:
        app.include_router(page)
    errors.install(app)

    async def fall_back(scope: Scope, receive: Receive, send: Send) -> None:
        response = await rl.fall_back(Request(scope, receive), plane)
        await response(scope, receive, send)

    app.router.default = fall_back
    # FastAPI compiles routes and their description at first use: 40 ms that the data plane would have to wait.
    app.openapi()
    served = AnySpelling(HeadAsGet(SavedFirst(app, plane.fleet.saver.flush)))
    return Bound(Audited(served, plane.audit))


class HeadAsGet:
    """Answer HEAD as GET: the server leaves the body out (RFC 9110 §9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
