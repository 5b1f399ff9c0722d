"""Find the images in the beginning of a reply, and make them small.

Whatever a worker sends may be malformed, or made to do harm: only three formats are read, of a size that is checked
before a pixel is, and what comes out are pixels alone, without anything that was written beside them. All this is done
in a thread, and in steps of at most a few milliseconds between which the event loop can have the interpreter.
"""

from __future__ import annotations

import binascii
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from sglang_diffusion_routing.client.tensors import Tensor, from_packed
from sglang_diffusion_routing.runtime.packed import CutOff, Packed

MOST_OF_ONE_REPLY = 4
MAX_PIXELS = 2**24
"""Pixels of an image that is read, 4096 x 4096; they take 64 MiB while it is."""
SMALL_SIDE, SMALL_BYTES = 144, 8 * 2**10
LARGE_SIDE, LARGE_BYTES = 640, 64 * 2**10

# Pillow says so of a size that is refused here in any case.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

Size = tuple[int, int]
"""Width and height in pixels."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_NAMES = (b'"b64_json"', b'"output_b64"')
"""Members that hold a file: of /v1/images/..., and of /v1/diffusion/generate."""
_OUTPUT = "generated_output"
_BASE64_STEP = 64 * 2**10
"""Characters that are decoded at a time, in 0.1 ms: the loop can have the interpreter in between."""
_QUALITIES = (85, 70, 50, 30)
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, twice: JPEG of at most `SMALL_BYTES` and of `LARGE_BYTES`. width, height: as it was made, in pixels."""

    width: int
    height: int
    small: bytes
    large: bytes


def pictures_in(reply: bytearray, *, is_msgpack: bool) -> list[Picture]:
    """Give the first images of a reply, of which the beginning is enough; none where it has none, or only their URLs.

    Args:
        is_msgpack: it is one of /rollout/generate; else it is JSON with files in base64.

    Raises:
        Exception: of any kind, when what is there is not what it should be.
    """
    found = _of_rollout(reply) if is_msgpack else _of_json(reply)
    return [_picture(image, size) for image, size in islice(found, MOST_OF_ONE_REPLY)]


def _picture(image: Image.Image, size: Size) -> Picture:
    # This reads a JPEG file at the size that is needed.
    image.thumbnail((LARGE_SIDE, LARGE_SIDE))
    pixels = image.convert("RGB")
    # Comments, profiles and the like, which may name the prompt.
    pixels.info = {}
    return Picture(*size, small=_file(pixels, SMALL_SIDE, SMALL_BYTES), large=_file(pixels, LARGE_SIDE, LARGE_BYTES))


def _file(image: Image.Image, side: int, limit_bytes: int) -> bytes:
    """Write an image as well as its bytes allow."""
    while True:
        scaled = image.copy()
        scaled.thumbnail((side, side))
        for quality in _QUALITIES:
            written = io.BytesIO()
            scaled.save(written, "JPEG", quality=quality)
            if written.tell() <= limit_bytes:
                return written.getvalue()
        side //= 2


# Files in JSON.


def _of_json(reply: bytearray) -> Iterator[tuple[Image.Image, Size]]:
    for encoded in _strings_of(reply):
        image = Image.open(_decoded(encoded), formats=_FORMATS)
        yield image, _checked(image.size)


def _checked(size: Size) -> Size:
    """Refuse an image that is too large to be read; nothing of it but its head has been.

    Raises:
        ValueError: it is.
    """
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels")
    return size


def _strings_of(reply: bytearray) -> Iterator[memoryview]:
    """Give the strings that hold files, as far as they are whole.

    They are searched for, not parsed: reading megabytes as JSON would hold the interpreter for as long. Within another
    string, such as a prompt, no name stands between bare quotes.
    """
    view = memoryview(reply)
    for name in _NAMES:
        at = reply.find(name)
        while at >= 0:
            colon = _after_blanks(reply, at + len(name))
            begin = _after_blanks(reply, colon + 1)
            if reply[colon : colon + 1] == b":" and reply[begin : begin + 1] == b'"':
                end = reply.find(b'"', begin + 1)
                if end < 0:
                    return
                yield view[begin + 1 : end]
            at = reply.find(name, begin)


def _after_blanks(reply: bytearray, at: int) -> int:
    while reply[at : at + 1] and reply[at] in _BLANKS:
        at += 1
    return at


def _decoded(encoded: memoryview) -> io.BytesIO:
    file = io.BytesIO()
    for at in range(0, len(encoded), _BASE64_STEP):
        file.write(binascii.a2b_base64(encoded[at : at + _BASE64_STEP], strict_mode=True))
    file.seek(0)
    return file


# Tensors in msgpack.


def _of_rollout(reply: bytearray) -> Iterator[tuple[Image.Image, Size]]:
    """Give an image of each sample, as far as they are whole; nothing else in a sample is looked at."""
    packed = Packed(memoryview(reply))
    try:
        for number, sample in enumerate(packed.entries(0)):
            for name, at in packed.members(sample):
                if name == _OUTPUT and not packed.is_null(at):
                    yield _of_tensor(from_packed(_tensor_at(packed, at), f"[{number}].{_OUTPUT}"))
    except CutOff:
        return


def _tensor_at(packed: Packed, at: int) -> dict[str, Any]:
    return {name: packed.payload(at) if name == "data" else packed.short(at) for name, at in packed.members(at)}


def _of_tensor(tensor: Tensor) -> tuple[Image.Image, Size]:
    """Draw a sample: [channels, height, width], of a video [channels, frames, height, width] the one in the middle."""
    pixels = tensor.numpy()
    if pixels.ndim == 4:
        pixels = pixels[:, pixels.shape[1] // 2]
    channels, height, width = pixels.shape
    size = _checked((width, height))
    # Rows that will be scaled away are not worth converting.
    step = max(1, min(size) // (2 * LARGE_SIDE))
    pixels = pixels[:, ::step, ::step]
    if tensor.dtype != "uint8":
        pixels = np.rint(np.clip(np.nan_to_num(pixels.astype(np.float32)), 0, 1) * 255).astype(np.uint8)
    rows = pixels.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(rows[:, :, 0] if channels == 1 else rows)), size
