"""`GET /dashboard/thumbnails/{name}`: one of the last images that were generated."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response

from sglang_diffusion_routing.api.plane import Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.replies import errors
from sglang_diffusion_routing.errors import UnknownThumbnail

router = APIRouter(tags=["status"], dependencies=[Depends(each_once)])

_HEADERS = {
    # What was made is for those who may look now.
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


@router.get(
    "/dashboard/thumbnails/{name}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "The image."}, **errors(UnknownThumbnail)},
)
async def thumbnail(
    plane: Plane,
    name: Annotated[str, Path(max_length=64)],
    size: Annotated[Literal["small", "large"], Query()] = "small",
) -> Response:
    """Give an image that a worker has made, at most 144 or, large, 640 pixels high and wide, as JPEG.

    `GET /events` names those that there are; only with `--thumbnails` is there any.
    """
    found = None if plane.gallery is None else plane.gallery.find(name)
    if found is None:
        raise UnknownThumbnail(name)
    picture = found.picture
    return Response(picture.large if size == "large" else picture.small, headers=_HEADERS, media_type="image/jpeg")
