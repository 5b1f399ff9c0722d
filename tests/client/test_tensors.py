"""Tests of tensors in replies."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sglang_diffusion_routing.client.errors import DecodeError
from sglang_diffusion_routing.client.tensors import Tensor, from_npy_base64, from_packed, from_safetensors
from sglang_diffusion_routing.sim.tensors import npy_base64, packed, to_safetensors

pytestmark = pytest.mark.core

DTYPES = st.sampled_from(["float32", "float16", "uint8"])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(arrays.arrays(DTYPES, SHAPES, elements={"allow_nan": False}))
def test_what_a_worker_packs_is_what_is_read(array: np.ndarray[Any, Any]) -> None:
    tensor = from_packed(packed(array), "x")

    np.testing.assert_array_equal(tensor.numpy(), array)
    assert (tensor.shape, tensor.numpy().dtype, tensor.dtype) == (array.shape, array.dtype, array.dtype.name)


@given(arrays.arrays(DTYPES, SHAPES, elements={"allow_nan": False}))
def test_raw_bytes_are_told_from_a_safetensors_file(array: np.ndarray[Any, Any]) -> None:
    raw = {**packed(array), "data": array.tobytes()}

    np.testing.assert_array_equal(from_packed(raw, "x").numpy(), array)


@given(arrays.arrays(np.float32, SHAPES, elements={"allow_nan": False}))
def test_npy_files_in_base64_are_read(array: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(from_npy_base64(npy_base64(array), "x").numpy(), array)


def test_an_array_is_a_view_of_what_was_received() -> None:
    received = to_safetensors({"t": np.arange(6, dtype=np.float32).reshape(2, 3)})
    tensor = from_packed({"data": received, "shape": [2, 3], "dtype": "torch.float32"}, "x")

    address = np.frombuffer(received, dtype=np.uint8).__array_interface__["data"][0]
    offset = tensor.numpy().__array_interface__["data"][0] - address
    assert offset == len(received) - 24
    assert not tensor.numpy().flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        tensor.numpy()[0, 0] = 1.0


def test_bfloat16_is_widened_without_loss() -> None:
    values = np.array([1.0, -2.5, 3.140625, np.inf], dtype=np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    tensor = from_packed({"data": halves.tobytes(), "shape": [2, 2], "dtype": "torch.bfloat16"}, "x")

    np.testing.assert_array_equal(tensor.numpy(), values.reshape(2, 2))
    np.testing.assert_array_equal(np.asarray(tensor), values.reshape(2, 2))
    with pytest.raises(ValueError, match="without a copy"):
        np.array(tensor, copy=False)


def test_a_tensor_is_an_array_to_numpy() -> None:
    tensor = from_packed(packed(np.array([[1, 2]], dtype=np.uint8)), "x")

    assert np.asarray(tensor, dtype=np.float32).tolist() == [[1.0, 2.0]]
    assert np.array(tensor, copy=True).flags.writeable
    assert (len(tensor), repr(tensor)) == (1, "Tensor(uint8, [1, 2])")


def test_what_numpy_has_no_type_for_is_left_to_torch() -> None:
    tensor = from_packed({"data": b"\x38\x40", "shape": [2], "dtype": "torch.float8_e4m3fn"}, "x")

    with pytest.raises(TypeError, match="float8_e4m3fn"):
        tensor.numpy()


def test_torch_gets_the_same_bytes() -> None:
    torch = pytest.importorskip("torch")
    tensor = from_packed(packed(np.arange(6, dtype=np.float16).reshape(3, 2)), "x").torch()

    assert torch.equal(tensor, torch.arange(6, dtype=torch.float16).reshape(3, 2))


GOOD = packed(np.zeros((2, 3), dtype=np.float32))
FILE = bytes(GOOD["data"])


@pytest.mark.parametrize(
    ("changed", "field", "problem"),
    [
        ({"data": FILE[:-1]}, r"x\['t'\]", "not all there"),
        ({"data": FILE[:12]}, "x", "no safetensors file"),
        ({"data": b"\x02\0\0\0\0\0\0\0{]"}, "x", "no safetensors file"),
        ({"data": b"\x02\0\0\0\0\0\0\0[]"}, "x", "header is no object"),
        ({"data": b"\x07\0\0\0\0\0\0\0" + b'{"t":1}'}, r"x\['t'\]", "no object"),
        ({"data": b"\x02\0\0\0\0\0\0\0{}"}, "x", "the file has 0"),
        ({"data": FILE.replace(b"F32", b"F99")}, r"x\['t'\]", "unknown type 'F99'"),
        ({"data": FILE.replace(b"[2,3]", b"[2,2]")}, r"x\['t'\]", "24 bytes for float32"),
        ({"data": FILE.replace(b"[2,3]", b"[2,-])")}, "x", "no safetensors file"),
        ({"data": "text"}, "x.data", "bytes are wanted, not str"),
        ({"shape": [3, 3]}, "x", r"\[3, 3\] was announced, float32 \[2, 3\] came"),
        ({"shape": [2, -3]}, "x.shape", "a list of sizes"),
        ({"shape": None}, "x.shape", "a list of sizes"),
        ({"dtype": "torch.float16"}, "x", "float16.*was announced"),
        ({"dtype": "torch.complex64"}, "x", "unknown type 'complex64'"),
        ({"dtype": 4}, "x.dtype", "a name is wanted"),
    ],
)
def test_what_disagrees_is_named(changed: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(DecodeError, match=f"^{field}: .*{problem}"):
        from_packed({**GOOD, **changed}, "x")


@given(st.binary(max_size=64))
def test_no_bytes_bring_anything_but_a_decode_error(data: bytes) -> None:
    try:
        tensors = from_safetensors(memoryview(data), "x")
    except DecodeError:
        return
    assert all(isinstance(tensor, Tensor) for tensor in tensors.values())


def _npy(array: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("?", "no .npy file in base64"),
        (base64.b64encode(b"nothing").decode(), "no .npy file in base64"),
        (_npy(np.zeros((2, 2), dtype=np.float32, order="F")), "cannot be read where it lies"),
        (_npy(np.zeros(2, dtype=">f4")), "cannot be read where it lies"),
        (_npy(np.zeros(2, dtype=np.complex64)), "unknown type 'complex64'"),
        (base64.b64encode(base64.b64decode(_npy(np.zeros(2, dtype=np.float32)))[:-1]).decode(), "7 bytes for float32"),
        (None, "base64 is wanted, not NoneType"),
    ],
)
def test_a_bad_npy_file_is_named(text: Any, problem: str) -> None:
    with pytest.raises(DecodeError, match=f"^x: .*{problem}"):
        from_npy_base64(text, "x")


def test_a_type_that_npy_files_have_no_name_for_is_told_beside_them() -> None:
    halves = np.frombuffer(np.array([0x3F80, 0x4000], dtype="<u2").tobytes(), dtype="V2")

    assert from_npy_base64(_npy(halves), "x", "bfloat16").numpy().tolist() == [1.0, 2.0]
