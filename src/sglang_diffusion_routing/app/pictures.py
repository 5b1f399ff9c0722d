"""Make the gallery of the last images, where one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang_diffusion_routing.runtime.loop import Fleet
from sglang_diffusion_routing.settings import Settings

if TYPE_CHECKING:
    from sglang_diffusion_routing.runtime.gallery import Gallery


def gallery(settings: Settings, fleet: Fleet) -> Gallery | None:
    """Give the gallery; None when no images are to be shown."""
    if not settings.thumbnails:
        return None
    # Pillow has no business in a router that shows nothing, and takes its time to import.
    from sglang_diffusion_routing.runtime.gallery import Gallery

    return Gallery(settings.thumbnails, fleet.now_s)
