import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.errors import BadFraming, BadHeader, BadHost, UnknownCoding
from sglang_diffusion_routing.http1.fields import (
    HOP_BY_HOP,
    check_trailer,
    checked_host,
    connection_tokens,
    content_length,
    has_control_characters,
    is_chunked,
    without_nominated,
)

pytestmark = pytest.mark.core


def test_exactly_these_fields_end_at_each_hop() -> None:
    assert (
        frozenset(
            b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer"
            b" transfer-encoding upgrade".split()
        )
        == HOP_BY_HOP
    )


@pytest.mark.parametrize(("value", "expected"), [(b"0", 0), (b"5", 5), (b"10", 10), (b"9" * 19, 10**19 - 1)])
def test_a_length_is_one_plain_number(value: bytes, expected: int) -> None:
    assert content_length(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"+5", b"-5", b"05", b"00", b"5 ", b" 5", b"5,5", b"5, 5", b"0x5", b"5_0", b"1e3", b"5.0", b"five"),
        *(b"9" * 20, b"\xd9\xa5", b"\xb2", b"5\n"),
    ],
)
def test_anything_else_is_no_length(value: bytes) -> None:
    with pytest.raises(BadFraming):
        content_length(value)


@given(st.integers(0, 10**19 - 1))
def test_every_length_is_read_as_it_was_written(number: int) -> None:
    assert content_length(b"%d" % number) == number


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"CHUNKED"])
def test_chunked_is_the_one_known_coding(coding: bytes) -> None:
    assert is_chunked([coding])


UNKNOWN = [[b"gzip"], [b"identity"], [b"xchunked"], [b"gzip, chunked"], [b"gzip", b"chunked"], [b"a,b", b"Chunked"]]
MALFORMED = [
    [b""],
    [b"x y"],
    [b"chunked;q=1"],
    [b"chunked\x0b"],
    [b",chunked"],
    [b"chunked,"],
    [b"chunked, chunked"],
    [b"chunked", b"chunked"],
    [b"chunked, gzip"],
    [b"chunked", b"gzip"],
]


@pytest.mark.parametrize("codings", UNKNOWN)
def test_other_codings_before_the_end_are_unknown(codings: list[bytes]) -> None:
    with pytest.raises(UnknownCoding) as caught:
        is_chunked(codings)
    assert caught.value.http_status == 501


@pytest.mark.parametrize("codings", MALFORMED)
def test_what_does_not_end_in_one_chunked_or_is_no_list_is_malformed(codings: list[bytes]) -> None:
    with pytest.raises(BadFraming) as caught:
        is_chunked(codings)
    assert (type(caught.value), caught.value.http_status) == (BadFraming, 400)


@pytest.mark.parametrize(
    "value",
    [
        *(b"a", b"example.com", b"Example.COM:8080", b"127.0.0.1:30080", b"[::1]", b"[2001:db8::1]:80", b"a_b-c~d"),
        *(b"xn--bcher-kva.example:65535", b"[::ffff:10.0.0.1]:1"),
    ],
)
def test_a_host_is_a_name_or_an_address_with_an_optional_port(value: bytes) -> None:
    assert checked_host(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b" ",
            b"a b",
            b"a,b",
            b"a, a",
            b"a/",
            b"a/b",
            b"u@a",
            b"u:p@a",
            b"a?x",
            b"a#x",
            b"a:80:80",
            b":80",
            b"a:x",
        ),
        *(b"a:123456", b"[::1", b"::1", b"[::1]x", b"[g::1]", b"a\\b", b"a\tb", b"a\x00", b'"a"', b"<a>", b"\xff"),
    ],
)
def test_anything_else_is_no_host(value: bytes) -> None:
    with pytest.raises(BadHost):
        checked_host(value)


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        ([b"close"], {b"close"}),
        ([b"Close"], {b"close"}),
        ([b"CLOSE"], {b"close"}),
        ([b"keep-alive"], {b"keep-alive"}),
        ([b"Keep-Alive"], {b"keep-alive"}),
        ([b"keep-alive, X-Foo"], {b"keep-alive", b"x-foo"}),
        ([b"close", b"X-Bar"], {b"close", b"x-bar"}),
        ([b" , ,\tx-foo\t,"], {b"x-foo"}),
        ([b""], set()),
    ],
)
def test_connection_fields_are_split_into_lower_case_tokens(values: list[bytes], tokens: set[bytes]) -> None:
    assert connection_tokens(values) == frozenset(tokens)


LINES = [b"X-Foo: 1\r\n", b"X-Foobar: 2\r\n", b"x-foo: 3\r\n", b"Accept: X-Foo\r\n", b"Content-Length: 5\r\n"]


@pytest.mark.parametrize(
    ("tokens", "left"),
    [
        (set(), LINES),
        ({b"close"}, LINES),
        ({b"close", b"keep-alive", b"upgrade"}, LINES),
        ({b"x-foo"}, [LINES[1], LINES[3], LINES[4]]),
        ({b"x-foobar", b"close"}, [LINES[0], LINES[2], LINES[3], LINES[4]]),
        ({b"foo"}, LINES),
        ({b"content-length", b"x-foobar"}, [LINES[0], LINES[2], LINES[3], LINES[4]]),
    ],
)
def test_nominated_fields_but_for_those_of_framing_are_dropped_in_any_case(
    tokens: set[bytes], left: list[bytes]
) -> None:
    assert without_nominated(list(LINES), frozenset(tokens)) == left


@pytest.mark.parametrize("line", [b"X-Checksum: abc", b"x:", b"x: a\tb", b"Server-Timing: a;dur=1", b"X: \xff"])
def test_an_ordinary_trailer_is_let_through(line: bytes) -> None:
    check_trailer(line)


@pytest.mark.parametrize(
    "line", [b"X", b": a", b"X : a", b" X: a", b"X: a\x00", b"X: a\rb", b"X\xff: a", b"X: \x7f", b"\tX"]
)
def test_a_malformed_trailer_is_refused(line: bytes) -> None:
    with pytest.raises(BadHeader):
        check_trailer(line)


FORBIDDEN = sorted(HOP_BY_HOP | {b"content-length", b"host", b"expect"})


@pytest.mark.parametrize("name", [spelt for name in FORBIDDEN for spelt in (name, name.title(), name.upper())])
def test_a_trailer_cannot_change_the_framing_or_the_route(name: bytes) -> None:
    with pytest.raises(BadFraming):
        check_trailer(name + b": 1")


@given(st.integers(0, 255))
def test_control_characters_are_those_of_ascii_but_for_tab(code: int) -> None:
    assert has_control_characters(b"a" + bytes([code]) + b"b") == ((code < 32 and code != 9) or code == 127)
