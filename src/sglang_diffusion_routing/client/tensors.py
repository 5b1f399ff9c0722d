"""Tensors in replies, as numpy or torch, without copying what has been received."""

from __future__ import annotations

import base64
import binascii
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sglang_diffusion_routing.client.errors import DecodeError

if TYPE_CHECKING:
    import torch

_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of one element, by PyTorch's name of its type."""

# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs, `Dtype`
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

_NOT_IN_NUMPY = frozenset({"float8_e4m3fn", "float8_e5m2"})
_HEADER_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor as it came: its bytes, in row-major order and little-endian, are a view of what was received.

    dtype: PyTorch's name of the type, without `torch.`.
    """

    buffer: memoryview
    dtype: str
    shape: tuple[int, ...]

    def numpy(self) -> NDArray[Any]:
        """Give a read-only array over the same bytes.

        numpy has no bfloat16: such a tensor is widened to float32, which takes memory of its own and loses nothing.

        Raises:
            TypeError: numpy has no type for it (float8); `torch` has.
        """
        if self.dtype == "bfloat16":
            # The upper half of a float32 is a bfloat16.
            halves = np.frombuffer(self.buffer, dtype="<u2").astype(np.uint32) << np.uint32(16)
            return halves.view(np.float32).reshape(self.shape)
        if self.dtype in _NOT_IN_NUMPY:
            raise TypeError(f"numpy has no {self.dtype}; torch() reads it")
        return np.frombuffer(self.buffer, dtype=np.dtype(self.dtype)).reshape(self.shape)

    def torch(self) -> torch.Tensor:
        """Give a torch tensor over the same bytes, on the CPU; clone it, or move it, before changing it in place.

        Raises:
            ImportError: PyTorch is not installed.
        """
        # Who trains has it; the router and those who only look at images need not.
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        if not self.buffer.nbytes:
            return torch.empty(self.shape, dtype=dtype)
        with warnings.catch_warnings():
            # It warns of bytes that may not be written; so does the docstring.
            warnings.simplefilter("ignore", UserWarning)
            return torch.frombuffer(self.buffer, dtype=dtype).reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self.numpy()
        if copy is False and self.dtype == "bfloat16":
            raise ValueError("a bfloat16 tensor cannot become an array without a copy")
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {list(self.shape)})"


def from_packed(packed: Mapping[str, Any], field: str) -> Tensor:
    """Read a rollout reply's tensor: {"__tensor__", "data", "shape", "dtype"}.

    The data is a safetensors file of one tensor, as SGLang 0.5.23 sends it, or the tensor's bytes alone: a file is
    always longer than these.

    Raises:
        DecodeError: the header, the shape, the type and the length of the data disagree.
    """
    shape, dtype, data = packed.get("shape"), packed.get("dtype"), packed.get("data")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DecodeError(f"{field}.data", f"bytes are wanted, not {type(data).__name__}")
    if not isinstance(dtype, str):
        raise DecodeError(f"{field}.dtype", f"a name is wanted, not {dtype!r}")
    sizes, name, view = _shape(shape, f"{field}.shape"), dtype.removeprefix("torch."), memoryview(data)
    if view.nbytes == _size_bytes(name, sizes, field):
        return Tensor(view, name, sizes)
    tensor = _only(from_safetensors(view, field), field)
    if (tensor.shape, tensor.dtype) != (sizes, name):
        raise DecodeError(field, f"{dtype} {list(sizes)} was announced, {tensor.dtype} {list(tensor.shape)} came")
    return tensor


def from_safetensors(data: memoryview, field: str) -> dict[str, Tensor]:
    """Read a safetensors file (https://github.com/huggingface/safetensors#format).

    Raises:
        DecodeError: it is none, it is cut off, or it holds a type that is not known.
    """
    length = int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    body = data[_HEADER_LENGTH_BYTES + length :]
    if data.nbytes < _HEADER_LENGTH_BYTES or length > data.nbytes - _HEADER_LENGTH_BYTES:
        raise DecodeError(field, f"no safetensors file: {data.nbytes} bytes with a header of {length}")
    try:
        header = json.loads(bytes(data[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length]))
    except ValueError as error:
        raise DecodeError(field, f"no safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise DecodeError(field, "no safetensors file: its header is no object")
    return {name: _entry(body, entry, f"{field}[{name!r}]") for name, entry in header.items() if name != "__metadata__"}


def _entry(body: memoryview, entry: Any, field: str) -> Tensor:
    if not isinstance(entry, dict):
        raise DecodeError(field, "no safetensors file: an entry is no object")
    dtype = _SAFETENSORS.get(entry.get("dtype", ""))
    if dtype is None:
        raise DecodeError(field, f"unknown type {entry.get('dtype')!r}")
    shape = _shape(entry.get("shape"), field)
    offsets = _shape(entry.get("data_offsets"), field)
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= body.nbytes:
        raise DecodeError(field, f"its bytes {list(offsets)} are not all there, of {body.nbytes}")
    view = body[offsets[0] : offsets[1]]
    if view.nbytes != _size_bytes(dtype, shape, field):
        raise DecodeError(field, f"{view.nbytes} bytes for {dtype} {list(shape)}")
    return Tensor(view, dtype, shape)


def from_npy_base64(text: Any, field: str, dtype: str | None = None) -> Tensor:
    """Read the base64 of a .npy file.

    Args:
        dtype: the type's name as the reply tells it, for those that numpy writes as nameless bytes (bfloat16).

    Raises:
        DecodeError: it is none, holds Python objects or is in column-major order.
    """
    if not isinstance(text, str):
        raise DecodeError(field, f"base64 is wanted, not {type(text).__name__}")
    try:
        data = base64.b64decode(text, validate=True)
        start = io.BytesIO(data[:4096])
        major, _ = np.lib.format.read_magic(start)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, column_major, stored = read(start)
    except (binascii.Error, ValueError) as error:
        raise DecodeError(field, f"no .npy file in base64: {error}") from None
    if stored.hasobject or column_major or stored.byteorder == ">":
        raise DecodeError(field, f"a .npy file of {stored.str} that cannot be read where it lies")
    name = (dtype or "").removeprefix("torch.") if stored.kind == "V" else stored.name
    view = memoryview(data)[start.tell() :]
    if view.nbytes != _size_bytes(name, shape, field):
        raise DecodeError(field, f"{view.nbytes} bytes for {name} {list(shape)}")
    return Tensor(view, name, tuple(shape))


def _shape(value: Any, field: str) -> tuple[int, ...]:
    if isinstance(value, list | tuple) and all(isinstance(size, int) and size >= 0 for size in value):
        return tuple(value)
    raise DecodeError(field, f"a list of sizes is wanted, not {value!r}")


def _size_bytes(dtype: str, shape: tuple[int, ...], field: str) -> int:
    size = _SIZES.get(dtype)
    if size is None:
        raise DecodeError(field, f"unknown type {dtype!r}")
    return prod(shape) * size


def _only(tensors: Mapping[str, Tensor], field: str) -> Tensor:
    if len(tensors) != 1:
        raise DecodeError(field, f"one tensor is wanted, the file has {len(tensors)}")
    return next(iter(tensors.values()))
