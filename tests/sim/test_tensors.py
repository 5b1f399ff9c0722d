import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.sim import tensors

pytestmark = pytest.mark.core


def test_a_safetensors_file_is_what_the_library_writes() -> None:
    # safetensors.numpy.save({"t": ...}) of the same array
    header = b'{"t":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}       '
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert tensors.to_safetensors({"t": array}) == len(header).to_bytes(8, "little") + header + array.tobytes()


@pytest.mark.parametrize(("shape", "size"), [((3, 64, 64), 49224), ((4,), 80), ((4, 1), 88), ((4, 16, 8, 8), 16464)])
def test_tensors_in_a_reply_are_as_long_as_a_real_workers(shape: tuple[int, ...], size: int) -> None:
    assert len(tensors.to_safetensors({"t": np.zeros(shape, dtype=np.float32)})) == size


def test_what_is_written_can_be_read() -> None:
    written = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones(3, dtype=np.float16),
        "empty": np.zeros((0, 2), dtype=np.uint8),
    }
    read = tensors.from_safetensors(tensors.to_safetensors(written))
    assert list(read) == list(written)
    for name, array in written.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    try:
        read = tensors.from_safetensors(data)
    except tensors.NotSafetensors:
        return
    assert read == {}  # a header that names nothing


@pytest.mark.parametrize(
    "header",
    [
        b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,800]}}',
        b'{"t":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}',
        b'{"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}',
        b'{"t":7}',
        b"[]",
        b"\xff",
    ],
)
def test_a_header_that_does_not_fit_is_refused(header: bytes) -> None:
    with pytest.raises(tensors.NotSafetensors):
        tensors.from_safetensors(len(header).to_bytes(8, "little") + header + bytes(8))


def test_a_packed_tensor_names_its_type_as_pytorch_does() -> None:
    array = np.ones((1, 2), dtype=np.float16)
    assert tensors.packed(array) == {
        "__tensor__": True,
        "data": tensors.to_safetensors({"t": array}),
        "shape": [1, 2],
        "dtype": "torch.float16",
    }


def test_npy_base64_is_read_by_numpy() -> None:
    array = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(np.load(io.BytesIO(base64.b64decode(tensors.npy_base64(array)))), array)
