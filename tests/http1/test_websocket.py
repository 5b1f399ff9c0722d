import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.http1.websocket import SERVICE_RESTART_FRAME, FrameBoundary

pytestmark = pytest.mark.core


def frame(payload: bytes, *, opcode: int = 1, masked: bool = False, final: bool = True, wide: int = 0) -> bytes:
    """Build a frame (RFC 6455 §5.2); wide: bytes of extended length, at least as many as are needed."""
    size = len(payload)
    wide = max(wide, 0 if size < 126 else 2 if size < 65536 else 8)
    first = (0x80 if final else 0) | opcode
    length = {0: size, 2: 126, 8: 127}[wide]
    head = bytes([first, (0x80 if masked else 0) | length])
    head += {0: b"", 2: struct.pack("!H", size & 0xFFFF), 8: struct.pack("!Q", size)}[wide]
    return head + (b"mask" if masked else b"") + payload


frames = st.builds(
    frame,
    st.one_of(st.binary(max_size=200), st.integers(120, 300).map(bytes), st.integers(65530, 65540).map(bytes)),
    opcode=st.sampled_from([0, 1, 2, 8, 9, 10]),
    masked=st.booleans(),
    final=st.booleans(),
    wide=st.sampled_from([0, 2, 8]).filter(lambda wide: wide != 2),
)


@given(st.lists(frames, min_size=1, max_size=5), st.lists(st.integers(0, 10**6), max_size=8))
def test_every_boundary_is_found_in_any_pieces(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(sent)
    ends = set()
    position = 0
    for one in sent:
        position += len(one)
        ends.add(position)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    follower = FrameBoundary()
    for start, stop in pairwise(edges):
        inside = sorted(end - start for end in ends if start < end <= stop)
        assert follower.feed(stream[start:stop]) == (inside[0] if inside else None)
        assert follower.at_boundary == (stop in ends or stop == 0)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("masked", [False, True])
def test_a_frame_of_any_size_is_followed_byte_by_byte(size: int, masked: bool) -> None:
    raw = frame(bytes(size), masked=masked)
    follower = FrameBoundary()
    head = raw[: len(raw) - size]
    for byte in head[:-1]:
        assert follower.feed(bytes([byte])) is None
        assert not follower.at_boundary
    assert follower.feed(head[-1:] + bytes(size)) == size + 1
    assert follower.at_boundary


def test_it_begins_at_a_boundary() -> None:
    assert FrameBoundary().at_boundary
    assert FrameBoundary().feed(b"") is None


def test_the_restart_frame_is_an_unmasked_close_with_1012() -> None:
    assert frame(struct.pack("!H", 1012), opcode=8) == SERVICE_RESTART_FRAME
