import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.http1.partial import HeadInProgress

pytestmark = pytest.mark.core

REQUEST = b"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nContent-Length: 5\r\n\r\n"
REPLY = b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Length: 5\r\n\r\n"


def refused_at(raw: bytes, step: int, *, of_request: bool) -> int | None:
    """Let a head come in steps; give the bytes that were there when it was refused, None if it was not."""
    partial = HeadInProgress(b"", of_request=of_request)
    for end in range(step, len(raw) + step, step):
        partial.data = raw[:end]
        try:
            partial.check()
        except httptools.HttpParserError:
            return end
    return None


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_a_good_head_is_never_refused(step: int) -> None:
    assert refused_at(REQUEST[:-1], step, of_request=True) is None
    assert refused_at(REPLY[:-1], step, of_request=False) is None


@pytest.mark.parametrize(
    ("raw", "of_request"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", True),
        (b"SSH-2.0-OpenSSH_9.6\r\n", True),
        (b"get / HTTP/1.1\r\n", True),
        (b"GET / HTTP/3.0\r\n", True),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False),
        (b'{"error": "no http"}', False),
    ],
)
def test_nonsense_is_refused_with_its_first_bytes(raw: bytes, of_request: bool) -> None:
    partial = HeadInProgress(raw, of_request=of_request)
    with pytest.raises(httptools.HttpParserError):
        partial.check()


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\nX: 1\n\n"])
@pytest.mark.parametrize("step", [1, 2, 5, 100])
def test_a_head_in_bare_line_feeds_is_refused_however_it_comes(raw: bytes, step: int) -> None:
    assert refused_at(raw, step, of_request=True) is not None


@given(st.integers(1, 40))
def test_an_error_is_found_before_twice_its_place(step: int) -> None:
    good = b"GET / HTTP/1.1\r\nHost: a\r\n"
    raw = good + b"X : 1\r\n" + b"Y: 2\r\n" * 50
    place = refused_at(raw, step, of_request=True)
    assert place is not None
    assert place <= 2 * (len(good) + 3 + step)


def test_a_long_head_in_small_pieces_is_shown_to_the_parser_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time when it has doubled: read anew at every piece, its cost would grow with its square."""
    shown: list[int] = []
    parser = httptools.HttpRequestParser

    def counted(sink: object) -> httptools.HttpRequestParser:
        shown.append(1)
        return parser(sink)

    monkeypatch.setattr(httptools, "HttpRequestParser", counted)
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 0123456789\r\n" * 1000
    assert refused_at(raw, 1, of_request=True) is None
    assert len(shown) <= len(raw).bit_length() + 1
