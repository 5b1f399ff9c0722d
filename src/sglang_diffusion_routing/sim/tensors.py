"""Tensors as bytes: safetensors, the rollout reply's msgpack form, base64 .npy."""

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# safetensors' name and PyTorch's name of each type that the worker sends
_TYPES: dict[np.dtype[Any], tuple[str, str]] = {
    np.dtype(np.float32): ("F32", "torch.float32"),
    np.dtype(np.float16): ("F16", "torch.float16"),
    np.dtype(np.uint8): ("U8", "torch.uint8"),
}
_BY_NAME = {name: dtype for dtype, (name, _) in _TYPES.items()}


class NotSafetensors(ValueError):
    """The bytes are no safetensors file that this module can read."""


def torch_dtype(array: Array) -> str:
    """Name an array's type as PyTorch prints it: `torch.float32`."""
    return _TYPES[array.dtype][1]


def to_safetensors(tensors: Mapping[str, Array]) -> bytes:
    """Write named arrays as one safetensors file (https://github.com/huggingface/safetensors#format).

    Eight bytes of header length, a JSON header padded with spaces to a multiple of eight, the arrays' bytes.
    """
    header: dict[str, dict[str, Any]] = {}
    parts: list[bytes] = []
    offset = 0
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _TYPES[array.dtype][0],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        parts.append(raw)
        offset += len(raw)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def from_safetensors(data: bytes) -> dict[str, Array]:
    """Read a safetensors file.

    Raises:
        NotSafetensors: lengths disagree, the header is not JSON, or a type is unknown.
    """
    head_size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or head_size > len(data) - 8:
        raise NotSafetensors("the header is longer than the file")
    try:
        header = json.loads(data[8 : 8 + head_size])
        return {
            name: _read_one(data[8 + head_size :], entry) for name, entry in header.items() if name != "__metadata__"
        }
    except (UnicodeDecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotSafetensors(f"unreadable header: {error}") from error


def _read_one(body: bytes, entry: Mapping[str, Any]) -> Array:
    start, end = entry["data_offsets"]
    dtype: np.dtype[Any] = _BY_NAME[entry["dtype"]]
    if not 0 <= start <= end <= len(body):
        raise NotSafetensors("a tensor lies outside the file")
    return np.frombuffer(body[start:end], dtype=dtype).reshape(entry["shape"])


def packed(array: Array) -> dict[str, Any]:
    """Give a tensor's form in a rollout reply: `{"__tensor__", "data", "shape", "dtype"}`, data a safetensors file."""
    return {
        "__tensor__": True,
        "data": to_safetensors({"t": array}),
        "shape": list(array.shape),
        "dtype": torch_dtype(array),
    }


def npy_base64(array: Array) -> str:
    """Give an array as the base64 of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
