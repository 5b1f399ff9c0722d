"""Tests of walking through msgpack without decoding it."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_diffusion_routing.runtime.packed import MAX_VALUES, CutOff, Packed

pytestmark = pytest.mark.core

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=40))
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner), max_leaves=30
)


def packed(value: Any) -> Packed:
    return Packed(memoryview(msgpack.packb(value)))


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, max_size=20))
def test_values_are_found_where_a_decoder_finds_them(values: list[Any]) -> None:
    written = b"".join(msgpack.packb(value) for value in values)
    head = msgpack.Packer().pack_array_header(len(values))
    found = list(Packed(memoryview(head + written)).entries(0))
    at, wanted = len(head), []
    for value in values:
        wanted.append(at)
        at += len(msgpack.packb(value))
    assert found == wanted


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=40), st.integers().filter(lambda n: -(2**63) <= n < 2**64)))
def test_short_members_are_read(members: dict[str, int]) -> None:
    reply = packed(members)
    assert {name: reply.short(at) for name, at in reply.members(0)} == members


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 100_000])
def test_bytes_are_given_as_they_lie(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    reply = packed({"data": data[:size], "none": None})
    (_, at), (_, none) = reply.members(0)
    assert bytes(reply.payload(at)) == data[:size]
    assert (reply.is_null(at), reply.is_null(none)) == (False, True)


def test_bytes_that_are_not_all_there_are_cut_off() -> None:
    whole = msgpack.packb([b"x" * 100])
    for length in range(1, len(whole)):
        reply = Packed(memoryview(whole[:length]))
        with pytest.raises(CutOff):
            [reply.payload(at) for at in reply.entries(0)]


def test_what_is_another_kind_is_refused() -> None:
    for value, ask in [({}, "entries"), ([], "members"), ("text", "payload")]:
        with pytest.raises(ValueError, match="is wanted"):
            list(getattr(packed(value), ask)(0))


def test_a_type_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="0xc1"):
        list(Packed(memoryview(b"\x91\xc1")).entries(0))


def test_a_name_that_is_a_book_is_refused() -> None:
    with pytest.raises(ValueError, match="where a name"):
        list(packed({"x" * 2000: 1}).members(0))


def test_millions_of_values_are_not_walked_through() -> None:
    reply = packed([[None] * 10 for _ in range(MAX_VALUES)])
    with pytest.raises(ValueError, match="more than"):
        list(reply.entries(0))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_an_error(noise: bytes) -> None:
    reply = Packed(memoryview(b"\x9f" + noise))
    try:
        for at in reply.entries(0):
            reply.is_null(at)
    except (ValueError, CutOff):
        return
