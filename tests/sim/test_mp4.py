import struct

import pytest

from sglang_diffusion_routing.sim import mp4

pytestmark = pytest.mark.core

FRAMES = [b"first frame", b"second", b"the third frame"]


def boxes(data: bytes) -> dict[str, bytes]:
    """Split a sequence of boxes; sizes must add up exactly."""
    found: dict[str, bytes] = {}
    while data:
        size, kind = struct.unpack(">I4s", data[:8])
        assert 8 <= size <= len(data)
        found[kind.decode()] = data[8:size]
        data = data[size:]
    return found


def inside(film: bytes, *path: str) -> bytes:
    body = film
    for kind in path:
        body = boxes(body)[kind]
    return body


@pytest.fixture
def film() -> bytes:
    return mp4.encode(FRAMES, width=64, height=48, fps=24)


def test_the_file_is_an_mp4_with_one_track(film: bytes) -> None:
    assert list(boxes(film)) == ["ftyp", "mdat", "moov"]
    assert boxes(film)["ftyp"][:4] == b"isom"
    assert list(boxes(inside(film, "moov"))) == ["mvhd", "trak"]
    assert set(boxes(inside(film, "moov", "trak", "mdia", "minf", "stbl"))) == {"stsd", "stts", "stsc", "stsz", "stco"}


def test_the_tables_lead_to_the_frames(film: bytes) -> None:
    table = boxes(inside(film, "moov", "trak", "mdia", "minf", "stbl"))
    count, *sizes = struct.unpack(">I3I", table["stsz"][8:])
    (offset,) = struct.unpack(">I", table["stco"][8:])
    read = []
    for size in sizes:
        read.append(film[offset : offset + size])
        offset += size
    assert (count, read) == (3, FRAMES)


def test_it_lasts_as_long_as_its_frames(film: bytes) -> None:
    timescale, duration = struct.unpack(">II", inside(film, "moov", "mvhd")[12:20])
    assert (timescale, duration) == (24, 3)
    assert struct.unpack(">III", inside(film, "moov", "trak", "mdia", "minf", "stbl", "stts")[4:]) == (1, 3, 1)


def test_the_frames_are_declared_as_png_of_the_right_size(film: bytes) -> None:
    description = inside(film, "moov", "trak", "mdia", "minf", "stbl", "stsd")[8:]
    entry = boxes(description)["mp4v"]
    assert struct.unpack(">HH", entry[24:28]) == (64, 48)
    esds = boxes(entry[78:])["esds"]
    assert esds[4 + 2 + 3 + 2] == 0x6D
