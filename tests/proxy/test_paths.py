from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.proxy.paths import normal_path, query_value

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"/a", b"/a"),
        (b"/a/b.c", b"/a/b.c"),
        (b"/A", b"/A"),
        (b"/a-b_c~d:e@f", b"/a-b_c~d:e@f"),
        (b"/a/", b"/a"),
        (b"/a//", b"/a"),
        (b"//a", b"/a"),
        (b"/a//b", b"/a/b"),
        (b"/./a", b"/a"),
        (b"/a/.", b"/a"),
        (b"/a/./b", b"/a/b"),
        (b"/a/..", b"/"),
        (b"/a/../b", b"/b"),
        (b"/../a", b"/a"),
        (b"/../../a/b/../c", b"/a/c"),
        (b"/a/.b", b"/a/.b"),
        (b"/a/...", b"/a/..."),
        (b"/%61", b"/a"),
        (b"/%2fa", b"/a"),
        (b"/a%2Fb", b"/a/b"),
        (b"/%2e%2E/a", b"/a"),
        (b"/x/%2e%2e%2fa", b"/a"),
        (b"/%2561", b"/%61"),
        (b"/%", b"/%"),
        (b"/%zz", b"/%zz"),
        (b"/%6", b"/%6"),
        (b"\\a", b"/a"),
        (b"/a\\b", b"/a/b"),
        (b"/%5ca", b"/a"),
        (b"/a/..\\b", b"/b"),
        (b"/a;x=1", b"/a"),
        (b"/a;x/b;y", b"/a/b"),
        (b"/x/..;a=b/c", b"/c"),
        (b"/a%3bx", b"/a"),
        (b"/;x/a", b"/a"),
        (b"/a%20", b"/a "),
        (b"/%e2%82%ac", "/€".encode()),
        (b"/\xff", b"/\xff"),
    ],
)
def test_a_path_is_read_as_the_most_lenient_server_would(path: bytes, normal: bytes) -> None:
    assert normal_path(path) == normal


def test_a_plain_path_costs_no_copy() -> None:
    path = b"/v1/images/generations"
    assert normal_path(path) is path


PIECES = st.sampled_from(
    [
        b"/",
        b"//",
        b"\\",
        b".",
        b"..",
        b"%2e",
        b"%2E.",
        b"%2f",
        b"%5C",
        b"%",
        b"%25",
        b";",
        b";p=1",
        b"a",
        b"workers",
        b"%61",
    ]
)


@given(st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)))
def test_the_normal_form_of_anything_is_a_plain_path(path: bytes) -> None:
    normal = normal_path(path)
    segments = normal.split(b"/")
    assert segments[0] == b""
    assert not {b".", b".."} & set(segments)
    assert b"\\" not in normal
    assert b";" not in normal
    assert normal == b"/" or b"" not in segments[1:]


@given(st.binary(max_size=60).map(b"/".__add__))
def test_noise_has_a_normal_form_too(path: bytes) -> None:
    assert normal_path(path).startswith(b"/")


@given(st.lists(st.text("abcz019-_", min_size=1, max_size=8).map(str.encode), min_size=1, max_size=4), st.data())
def test_percent_encoding_changes_nothing(segments: list[bytes], data: st.DataObject) -> None:
    plain = b"/" + b"/".join(segments)
    spelt = b"".join(
        data.draw(st.sampled_from([bytes([byte]), b"%%%02x" % byte, b"%%%02X" % byte])) for byte in plain[1:]
    )
    assert unquote_to_bytes(spelt) == plain[1:]
    assert normal_path(b"/" + spelt) == plain


@pytest.mark.parametrize(
    ("query", "names", "value"),
    [
        (None, ("a",), None),
        (b"", ("a",), None),
        (b"a=1", ("a",), "1"),
        (b"b=2&a=1", ("a",), "1"),
        (b"a=1&a=2", ("a",), "1"),
        (b"a=", ("a",), None),
        (b"a", ("a",), None),
        (b"ab=1", ("a",), None),
        (b"%61=%20x+y", ("a",), " x y"),
        (b"a=%E2%82%AC", ("a",), "€"),
        (b"b=2&c=3", ("a", "b", "c"), "2"),
        (b"c=3&b=2", ("b", "c"), "2"),
        (b"b=&c=3", ("b", "c"), "3"),
        (b"a=1;b=2", ("b",), None),
    ],
)
def test_a_query_gives_the_first_value_of_the_first_name_that_it_has(
    query: bytes | None, names: tuple[str, ...], value: str | None
) -> None:
    assert query_value(query, *names) == value
