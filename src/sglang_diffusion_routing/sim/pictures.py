"""Colours as image files of the kind that was asked for."""

import io

from PIL import Image

from sglang_diffusion_routing.sim import png
from sglang_diffusion_routing.sim.flow import Floats

MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
QUALITY = 75  # runtime/entrypoints/utils.py, `_encode_image_frame`


def suffix_for(output_format: str | None, background: str | None) -> str:
    """Choose the kind of file as SGLang does (`choose_output_image_ext`): JPEG unless told otherwise."""
    wanted = (output_format or "").lower()
    if wanted in {"png", "webp", "jpeg", "jpg"}:
        return "jpg" if wanted == "jpeg" else wanted
    return "png" if (background or "auto").lower() == "transparent" else "jpg"


def encode(colours: Floats, suffix: str, quality: int | None = None) -> bytes:
    """Write colours in 0..1, [3, height, width], as a file.

    Args:
        suffix: a key of `MEDIA_TYPES`.
        quality: 1..100, of what loses something by it.
    """
    pixels = png.to_pixels(colours)
    if suffix == "png":
        return png.encode(pixels)
    buffer = io.BytesIO()
    kind = "JPEG" if suffix == "jpg" else "WEBP"
    Image.fromarray(pixels).save(buffer, format=kind, quality=QUALITY if quality is None else quality)
    return buffer.getvalue()
