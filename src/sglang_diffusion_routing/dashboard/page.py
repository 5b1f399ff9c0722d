"""Serve the page, its style and its program; all of them come from this package."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter, Response

from sglang_diffusion_routing.errors import RouteNotFound

router = APIRouter(include_in_schema=False)

_PARTS = ("app", "ask", "chart", "curves", "history", "pictures", "router", "words", "workers")
FILES = {
    **{f"{part}.js": "text/javascript; charset=utf-8" for part in _PARTS},
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

# Names and errors of workers are text on the page; should one ever become markup, it can load and run nothing.
# `blob:` is for images alone: they are fetched with the key, which a browser does not send for an address.
POLICY = (
    "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A router that was replaced has another page.
    "Cache-Control": "no-cache",
}


@router.get("/dashboard")
def page() -> Response:
    """Give the page; every address in it is relative, so that it works behind a path prefix."""
    return _file("index.html", "text/html; charset=utf-8")


@router.get("/dashboard/{name}")
def asset(name: str) -> Response:
    """Give one of the files that the page is made of."""
    if name not in FILES:
        raise RouteNotFound(f"/dashboard/{name}")
    return _file(name, FILES[name])


def _file(name: str, media_type: str) -> Response:
    content = resources.files(__package__).joinpath("static", name).read_bytes()
    return Response(content, headers=_HEADERS, media_type=media_type)
