"""Tests of images found in replies, good, cut off and hostile."""

import base64
import io
import json
import struct
import warnings
import zlib
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from sglang_diffusion_routing.runtime.pictures import (
    LARGE_BYTES,
    LARGE_SIDE,
    MAX_PIXELS,
    MOST_OF_ONE_REPLY,
    SMALL_BYTES,
    SMALL_SIDE,
    pictures_in,
)

pytestmark = pytest.mark.core

RED, BLUE = (255, 0, 0), (0, 0, 255)


def file(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 32), kind: str = "PNG", **more: Any) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", size, colour).save(written, kind, **more)
    return written.getvalue()


def images(*files: bytes | None) -> bytes:
    """Write a reply of /v1/images/generations."""
    rows = [{"b64_json": None if data is None else base64.b64encode(data).decode(), "url": "/u"} for data in files]
    return json.dumps({"id": "i", "data": rows}).encode()


def rollout(*outputs: Any, **more: Any) -> bytes:
    """Write a reply of /rollout/generate, whose members come in the order of SGLang's."""
    samples = [{"request_id": "r", "prompt": "secret", "seed": 1, "generated_output": each} for each in outputs]
    packed: bytes = msgpack.packb([sample | more for sample in samples])
    return packed


def tensor(pixels: NDArray[Any], dtype: str = "torch.float32") -> dict[str, Any]:
    return {"__tensor__": True, "data": pixels.tobytes(), "shape": list(pixels.shape), "dtype": dtype}


def colour_of(jpeg: bytes) -> tuple[int, ...]:
    """Give the colour in the middle, as far as JPEG keeps it."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        middle = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    assert isinstance(middle, tuple)
    return tuple(round(value / 85) * 85 for value in middle)


def sides(jpeg: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return image.size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_files_in_json_are_found(kind: str) -> None:
    found = pictures_in(bytearray(images(file(RED, kind=kind), file(BLUE, kind=kind))), is_msgpack=False)
    assert [(one.width, one.height, colour_of(one.small), colour_of(one.large)) for one in found] == [
        (64, 32, RED, RED),
        (64, 32, BLUE, BLUE),
    ]


def test_the_native_route_has_a_file_of_its_own() -> None:
    reply = json.dumps({"prompt": "a", "output_b64": base64.b64encode(file()).decode()}, separators=(" , ", " : "))
    assert [colour_of(one.small) for one in pictures_in(bytearray(reply.encode()), is_msgpack=False)] == [RED]


def test_a_url_is_no_image() -> None:
    assert pictures_in(bytearray(images(None)), is_msgpack=False) == []
    assert pictures_in(bytearray(b'{"detail": "none"}'), is_msgpack=False) == []


def test_a_prompt_cannot_look_like_an_image() -> None:
    prompt = f'"b64_json": "{base64.b64encode(file(BLUE)).decode()}"'
    reply = json.dumps({"data": [{"revised_prompt": prompt, "b64_json": base64.b64encode(file()).decode()}]}).encode()
    assert [colour_of(one.small) for one in pictures_in(bytearray(reply), is_msgpack=False)] == [RED]


def test_what_is_whole_of_a_beginning_is_enough() -> None:
    reply = images(file(RED), file(BLUE))
    assert len(pictures_in(bytearray(reply[:-60]), is_msgpack=False)) == 1
    red = np.zeros((3, 8, 8), np.float32)
    red[0] = 1
    reply = rollout(tensor(red), tensor(red), dit_trajectory=b"x" * 1000)
    assert len(pictures_in(bytearray(reply[:-1200]), is_msgpack=True)) == 1
    assert pictures_in(bytearray(reply[:100]), is_msgpack=True) == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_samples_of_a_rollout_are_drawn(dtype: str) -> None:
    blue = np.zeros((3, 20, 40), dtype)
    blue[2] = 255 if dtype == "uint8" else 1
    (one,) = pictures_in(bytearray(rollout(tensor(blue, f"torch.{dtype}"))), is_msgpack=True)
    assert (one.width, one.height, colour_of(one.small)) == (40, 20, BLUE)


def test_of_a_video_the_frame_in_the_middle_is_drawn() -> None:
    video = np.zeros((3, 5, 16, 16), np.float32)
    video[0, 2] = 1
    (one,) = pictures_in(bytearray(rollout(tensor(video))), is_msgpack=True)
    assert (one.width, one.height, colour_of(one.small)) == (16, 16, RED)


def test_a_grey_sample_and_odd_numbers_are_drawn() -> None:
    grey = np.full((1, 8, 8), np.nan, np.float32)
    grey[0, 4:] = np.inf
    assert [colour_of(one.small) for one in pictures_in(bytearray(rollout(tensor(grey))), is_msgpack=True)] == [
        (255, 255, 255)
    ]


def test_a_rollout_without_its_output_has_no_image() -> None:
    assert pictures_in(bytearray(rollout(None)), is_msgpack=True) == []


def test_of_many_the_first_few_are_enough() -> None:
    assert (
        len(pictures_in(bytearray(images(*[file()] * (MOST_OF_ONE_REPLY + 3))), is_msgpack=False)) == MOST_OF_ONE_REPLY
    )


@pytest.mark.parametrize("size", [(1024, 1024), (3000, 7), (1, 2000), (1, 1)])
def test_both_sizes_are_bounded_whatever_is_drawn(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).random((3, size[1], size[0]), np.float32)
    (one,) = pictures_in(bytearray(rollout(tensor(noise))), is_msgpack=True)
    assert (one.width, one.height) == size
    assert len(one.small) <= SMALL_BYTES
    assert len(one.large) <= LARGE_BYTES
    assert max(sides(one.small)) <= SMALL_SIDE
    assert max(sides(one.large)) <= LARGE_SIDE


def test_nothing_that_is_written_beside_the_pixels_is_kept() -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("parameters", "a secret prompt")
    for data in (file(pnginfo=told), file(kind="JPEG", comment=b"a secret prompt", icc_profile=b"a secret prompt")):
        assert b"secret" in data
        (one,) = pictures_in(bytearray(images(data)), is_msgpack=False)
        assert b"secret" not in one.small + one.large


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it is huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height"), [(4097, 4096), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)]
)
def test_an_image_that_is_too_large_is_refused_unread(width: int, height: int) -> None:
    with pytest.raises(Exception, match=r"pixels|exceeds limit"):
        pictures_in(bytearray(images(bomb(width, height))), is_msgpack=False)


def test_the_largest_that_is_read_is_as_large_as_it_says() -> None:
    with pytest.raises(OSError, match="truncated"):
        pictures_in(bytearray(images(bomb(MAX_PIXELS // 4096, 4096))), is_msgpack=False)


@pytest.mark.parametrize(
    ("reply", "is_msgpack", "why"),
    [
        (images(b"no image"), False, "cannot identify"),
        (images(file()[:60]), False, "truncated"),
        (images(file(kind="GIF")), False, "cannot identify"),
        (images(file(kind="BMP")), False, "cannot identify"),
        (b'{"data": [{"b64_json": "%%%"}]}', False, "base64"),
        (b'{"data": [{"b64_json": "AAA"}]}', False, "padding"),
        (b"\xff", True, "value where array"),
        (msgpack.packb({"no": "list"}), True, "map where array"),
        (rollout({"shape": [3, 8, 8]}), True, "bytes are wanted"),
        (rollout(tensor(np.zeros((3, 8), np.float32))), True, "not enough values"),
        (rollout(tensor(np.zeros((5, 8, 8), np.float32))), True, "Cannot handle"),
        (rollout(tensor(np.zeros((3, 0, 8), np.float32))), True, "8 x 0 pixels"),
        (rollout({**tensor(np.zeros((3, 8, 8), np.float32)), "shape": [3, 2**40, 2**40]}), True, "no safetensors"),
    ],
)
def test_what_is_no_image_is_an_error_of_the_reader_alone(reply: bytes, is_msgpack: bool, why: str) -> None:
    with pytest.raises(Exception, match=why):
        pictures_in(bytearray(reply), is_msgpack=is_msgpack)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2000), st.booleans())
def test_no_bytes_do_worse_than_an_error(noise: bytes, at: int, is_msgpack: bool) -> None:
    good = rollout(tensor(np.zeros((3, 8, 8), np.float32))) if is_msgpack else images(file())
    reply = good[:at] + noise + good[at + len(noise) :]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = pictures_in(bytearray(reply), is_msgpack=is_msgpack)
    except Exception:  # noqa: BLE001 - it may refuse by any
        return
    assert len(found) <= MOST_OF_ONE_REPLY
