"""Serve the API's documentation page with assets from this machine: GPU clusters often have no way to a CDN.

The assets are those of Swagger UI, as the package `fastapi-offline` ships them.
"""

from importlib import resources

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from sglang_diffusion_routing.errors import RouteNotFound

router = APIRouter(include_in_schema=False)

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_CACHE = {"Cache-Control": "public, max-age=86400"}


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Show the OpenAPI document; every address in the page is relative, so that it works behind a path prefix."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="sglang-d-router",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
        # Without this the page sends the document's address to a validator on the internet.
        swagger_ui_parameters={"validatorUrl": None},
    )


@router.get("/docs/{name}")
def asset(name: str) -> Response:
    """Give one file of the page; runs in a thread, since it reads 1.5 MB from disk."""
    if name not in _ASSETS:
        raise RouteNotFound(f"/docs/{name}")
    content = resources.files("fastapi_offline").joinpath("static", name).read_bytes()
    return Response(content, headers=_CACHE, media_type=_ASSETS[name])
