import json
import struct

import numpy as np
import pytest

from sglang_diffusion_routing.sim import glb

pytestmark = pytest.mark.core


def test_a_height_field_is_a_mesh_of_two_triangles_a_cell() -> None:
    heights = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], dtype=np.float32)

    data = glb.height_field(heights)

    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    json_size, kind = struct.unpack("<I4s", data[12:20])
    scene = json.loads(data[20 : 20 + json_size])
    binary = data[20 + json_size :]
    assert (kind, binary[4:8], struct.unpack("<I", binary[:4])[0]) == (b"JSON", b"BIN\0", len(binary) - 8)
    vertices, indices = scene["bufferViews"]
    points = np.frombuffer(binary[8:][: vertices["byteLength"]], dtype="<f4").reshape(-1, 3)
    corners = np.frombuffer(binary[8 + indices["byteOffset"] :], dtype="<u4").reshape(-1, 3)
    assert points[:, 1].tolist() == [0, 1, 2, 3, 4, 5]
    assert corners.shape == (4, 3)
    assert scene["accessors"][0]["min"] == [0, 0, 0]
    assert scene["accessors"][0]["max"] == [2, 5, 1]


def test_every_triangle_looks_up() -> None:
    data = glb.height_field(np.zeros((3, 4), dtype=np.float32))
    json_size = struct.unpack("<I", data[12:16])[0]
    scene, binary = json.loads(data[20 : 20 + json_size]), data[28 + json_size :]
    offset = scene["bufferViews"][1]["byteOffset"]
    points = np.frombuffer(binary[:offset], dtype="<f4").reshape(-1, 3)
    triangles = points[np.frombuffer(binary[offset:], dtype="<u4").reshape(-1, 3)]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    assert (normals[:, 1] > 0).all()
