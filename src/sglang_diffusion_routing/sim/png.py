"""Colours as PNG files."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from sglang_diffusion_routing.sim.flow import Floats

COMPRESSION = 1  # the rows are smooth and the file is thrown away soon: speed before size


def to_pixels(colours: Floats) -> NDArray[np.uint8]:
    """Turn colours in 0..1, [3, height, width], into pixels, [height, width, 3]."""
    return np.ascontiguousarray(np.rint(colours * 255.0).astype(np.uint8).transpose(1, 2, 0))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Write pixels, uint8 [height, width, 3], as a PNG file: https://www.w3.org/TR/png-3/.

    Each row is stored as its difference to the one above it.
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, width * 3)
    above = np.vstack([np.zeros((1, width * 3), dtype=np.uint8), rows[:-1]])
    filtered = np.empty((height, 1 + width * 3), dtype=np.uint8)
    filtered[:, 0] = 2  # filter type Up
    np.subtract(rows, above, out=filtered[:, 1:])  # modulo 256, as the standard wants it
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(filtered.tobytes(), COMPRESSION)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
