import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.proxy.shape import LOOK_BYTES, fields_of, json_fields

pytestmark = pytest.mark.core

NAMES = (
    "width",
    "height",
    "size",
    "num_inference_steps",
    "num_frames",
    "seconds",
    "fps",
    "n",
    "num_outputs_per_prompt",
    "guidance_scale",
    "true_cfg_scale",
)
# Prompts that look like the rest of the document: quotes, braces, names of members and their colons.
HOSTILE = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            ['"', "\\", "{", "}", "[", "]", ":", ",", " ", '"n": 5', '\\"size"', '", "width": 7, "', *NAMES]
        ),
        max_size=8,
    ).map("".join),
)
VALUES = st.one_of(
    st.integers(0, 10**6),
    st.floats(0, 1e6).filter(lambda number: len(repr(number)) <= 24),
    st.none(),
    st.booleans(),
    st.from_regex(r"[0-9]{1,4}x[0-9]{1,4}", fullmatch=True),
)
OTHERS = st.recursive(
    st.one_of(HOSTILE, VALUES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(NAMES), HOSTILE), inner, max_size=4)
    ),
    max_leaves=8,
)
BODIES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(NAMES), VALUES),
        st.tuples(st.one_of(st.just("prompt"), HOSTILE).filter(lambda name: name not in NAMES), OTHERS),
    ),
    max_size=8,
).map(dict)


def read(document: bytes) -> dict[str, Any]:
    """Decode what was found the way a JSON decoder does."""
    return {name.decode(): json.loads(value) for name, value in json_fields(document)}


@given(body=BODIES, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_the_members_of_the_object_itself_are_found_whatever_else_is_in_it(
    body: dict[str, Any], indent: int | None, *, ascii_only: bool
) -> None:
    document = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert read(document) == {name: value for name, value in body.items() if name in NAMES}


@given(body=BODIES, data=st.data())
def test_the_beginning_of_a_body_never_says_what_the_whole_does_not(body: dict[str, Any], data: st.DataObject) -> None:
    document = json.dumps(body).encode()
    cut = data.draw(st.integers(0, len(document)))
    assert read(document[:cut]).items() <= read(document).items()


@given(document=st.binary(max_size=200))
def test_nothing_in_a_body_makes_the_look_fail(document: bytes) -> None:
    assert fields_of(document, None, whole=True) is not None


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (b'{"size":"512x512","n":4}', ((b"size", b'"512x512"'), (b"n", b"4"))),
        (b'\n {"width" :\t512\n}', ((b"width", b"512"),)),
        (b'{"width": 512, "width": 640}', ((b"width", b"512"), (b"width", b"640"))),
        (b'{"prompt": "{", "width": 512}', ((b"width", b"512"),)),
        (b'{"extra": {"width": 1}, "width": 512, "more": [{"n": 1}], "n": 2}', ((b"width", b"512"), (b"n", b"2"))),
        (b'[{"width": 512}]', ()),
        (b'{"width": [512], "n": {"n": 5}}', ()),
        (b'{"size": "' + b"1" * 25 + b'", "n": ' + b"1" * 25 + b"}", ()),
        (b'{"widths": 1, "xn": 2}', ()),
        (b'{"a \\"n": 5, "b": "\\"n", "c": "\\\\", "n": 6}', ((b"n", b"6"),)),
        (b"", ()),
    ],
)
def test_values_come_as_they_are_written(document: bytes, found: tuple[tuple[bytes, bytes], ...]) -> None:
    assert json_fields(document) == found


def form(*parts: tuple[str, bytes]) -> bytes:
    head = b'--mark\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    return (
        b"".join(
            head % (name.encode(), b'; filename="a.png"' if value.startswith(b"\x89") else b"", value)
            for name, value in parts
        )
        + b"--mark--\r\n"
    )


FORM = b'multipart/form-data; boundary="mark"'


def test_the_fields_of_a_form_are_found_before_and_after_a_file() -> None:
    fake = b'\x89PNG\r\nContent-Disposition: form-data; name="n"\r\n\r\n9\r\n'
    body = form(("size", b"64x64"), ("image", fake), ("n", b"2"), ("prompt", b'name="fps"\r\n\r\n5'))
    assert fields_of(body, FORM, whole=True) == ((b"size", b"64x64"), (b"n", b"2"))


def test_a_field_of_a_form_that_may_go_on_is_not_taken() -> None:
    body = form(("size", b"64x64"), ("n", b"12"))
    assert fields_of(body[: body.index(b"12") + 1], FORM, whole=False) == ((b"size", b"64x64"),)


def test_a_long_field_of_a_form_is_not_taken() -> None:
    assert fields_of(form(("size", b"1" * 25)), FORM, whole=True) == ()


def test_a_form_without_a_boundary_says_nothing() -> None:
    assert fields_of(form(("n", b"2")), b"multipart/form-data", whole=True) == ()


@pytest.mark.parametrize(
    ("body", "whole", "found"),
    [
        (b'{"prompt": "a"}', True, ()),
        (b'{"prompt": "a', False, None),
        (b'{"n": 2, "prompt": "a', False, ((b"n", b"2"),)),
        (b'{"prompt": "' + b"a" * LOOK_BYTES + b'", "n": 2}', True, None),
        (b'{"n": 2, "prompt": "' + b"a" * LOOK_BYTES + b'"}', True, ((b"n", b"2"),)),
        (b"", True, ()),
    ],
)
def test_what_is_behind_the_look_is_unknown_and_what_is_not_there_is_not(
    body: bytes, found: tuple[tuple[bytes, bytes], ...] | None, *, whole: bool
) -> None:
    assert fields_of(body, b"application/json", whole=whole) == found


def test_hostile_bodies_are_read_in_time_that_grows_with_their_size_only() -> None:
    hostile = (
        b'{"a' * 2000,
        b"{" * LOOK_BYTES,
        b'"' * LOOK_BYTES,
        b'\\"' * 4096,
        b'{"n":1,' * 1100,
        b'"n":' * 2000,
        b'{"a":"' + b"\\" * LOOK_BYTES,
    )
    assert [len(json_fields(body)) < LOOK_BYTES for body in hostile] == [True] * len(hostile)


def test_a_number_keeps_its_meaning() -> None:
    assert math.isclose(read(b'{"guidance_scale": 4.5e0}')["guidance_scale"], 4.5)
