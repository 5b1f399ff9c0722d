"""A height field as a binary glTF file."""

import json
import struct

import numpy as np

from sglang_diffusion_routing.sim.flow import Floats

UNSIGNED_INT, FLOAT = 5125, 5126
INDICES, VERTICES = 34963, 34962


def height_field(heights: Floats) -> bytes:
    """Write a grid of heights, [rows, columns], as a mesh of triangles (glTF 2.0, §4.4 GLB file format)."""
    rows, columns = heights.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    points = np.stack([x, heights.astype(np.float32), y], axis=-1).reshape(-1, 3)
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None, :]).reshape(-1)
    below = corner + columns
    triangles = np.stack([corner, below, corner + 1, corner + 1, below, below + 1], axis=-1).astype(np.uint32)
    vertices, indices = points.tobytes(), triangles.tobytes()
    scene = {
        "asset": {"version": "2.0", "generator": "a simulated worker"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "buffers": [{"byteLength": len(vertices) + len(indices)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(vertices), "target": VERTICES},
            {"buffer": 0, "byteOffset": len(vertices), "byteLength": len(indices), "target": INDICES},
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": FLOAT,
                "count": len(points),
                "type": "VEC3",
                "min": points.min(axis=0).tolist(),
                "max": points.max(axis=0).tolist(),
            },
            {"bufferView": 1, "componentType": UNSIGNED_INT, "count": triangles.size, "type": "SCALAR"},
        ],
    }
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    parts = _chunk(b"JSON", text) + _chunk(b"BIN\0", vertices + indices)
    return b"glTF" + struct.pack("<II", 2, 12 + len(parts)) + parts


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + kind + body
