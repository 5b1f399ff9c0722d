from collections import deque
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.errors import BadFraming, BadHeader, BadRequest, BodyTooLarge
from sglang_diffusion_routing.http1.chunks import MAX_LINE_BYTES, MAX_TRAILER_BYTES, ChunkedBody, decoded

pytestmark = pytest.mark.core

AFTER = b"POST /next HTTP/1.1\r\n"
"""Bytes that follow a body and must not be taken for it."""


class Outcome:
    """What came of feeding a stream piece by piece."""

    def __init__(self, *pieces: bytes) -> None:
        payload: list[bytes] = []
        chunks = ChunkedBody(payload)
        self.forwarded = b""
        self.rest = b""
        self.after_each: list[bytes] = []
        for piece in pieces:
            if chunks.done:
                self.rest += piece
                continue
            span, rest = chunks.feed(piece)
            self.forwarded += span
            self.rest += rest
            self.after_each.append(self.forwarded)
        self.payload = b"".join(payload)
        self.done = chunks.done


def h11_payload(raw: bytes) -> bytes:
    """Decode with a parser of other hands."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    payload = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA
        if isinstance(event, h11.Data):
            payload += bytes(event.data)
    return payload


BODIES = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    b"A\r\n0123456789\r\n00\r\n\r\n",
    b"a;ext\r\n0123456789\r\n0;last=1\r\n\r\n",
    b'1;a=b;c="d;\\"e";f\r\nx\r\n0\r\n\r\n',
    b"3\r\n\r\n0\r\n0\r\nX-Sum: 1\r\nX-Two: a b\r\n\r\n",
    b"0001\r\n\x00\r\n1\r\n\xff\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_in_any_two_pieces_comes_out_as_it_went_in(body: bytes) -> None:
    stream = body + AFTER
    for cut in range(len(stream) + 1):
        outcome = Outcome(stream[:cut], stream[cut:])
        assert (outcome.done, outcome.forwarded, outcome.rest) == (True, body, AFTER)
        assert outcome.payload == h11_payload(body)


@pytest.mark.parametrize("body", BODIES)
def test_a_body_byte_by_byte_comes_out_as_it_went_in(body: bytes) -> None:
    outcome = Outcome(*(bytes([byte]) for byte in body + AFTER))
    assert (outcome.done, outcome.forwarded, outcome.rest) == (True, body, AFTER)
    assert outcome.payload == h11_payload(body)


PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";x", b";x=1", b';x="a\\"b;c"', b";x=y;z"])
TRAILERS = st.lists(st.sampled_from([b"X-A: 1\r\n", b"X-B:\r\n", b"Server-Timing: a;dur=1\r\n"]), max_size=3)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    raw = b""
    for piece in draw(PIECES):
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(piece)
        raw += size + draw(EXTENSIONS) + b"\r\n" + piece + b"\r\n"
    return raw + b"0" + draw(EXTENSIONS) + b"\r\n" + b"".join(draw(TRAILERS)) + b"\r\n"


@given(chunked_bodies(), st.lists(st.integers(0, 400), max_size=12), st.binary(max_size=20))
def test_any_body_in_any_pieces_comes_out_as_it_went_in(body: bytes, cuts: list[int], after: bytes) -> None:
    stream = body + after
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    outcome = Outcome(*(stream[a:b] for a, b in pairwise(edges)))
    assert (outcome.done, outcome.forwarded, outcome.rest) == (True, body, after)
    assert outcome.payload == h11_payload(body)


@given(chunked_bodies(), st.data())
def test_an_unfinished_body_is_never_done(body: bytes, data: st.DataObject) -> None:
    outcome = Outcome(body[: data.draw(st.integers(0, len(body) - 1))])
    assert not outcome.done
    assert body.startswith(outcome.forwarded)


def test_data_is_forwarded_at_once_and_lines_when_they_are_whole() -> None:
    pieces = [b"5", b"\r", b"\nhe", b"llo", b"\r", b"\n0\r\nX: ", b"1\r\n", b"\r", b"\n"]
    assert Outcome(*pieces).after_each == [
        b"",
        b"",
        b"5\r\nhe",
        b"5\r\nhello",
        b"5\r\nhello",
        b"5\r\nhello\r\n0\r\n",
        b"5\r\nhello\r\n0\r\nX: 1\r\n",
        b"5\r\nhello\r\n0\r\nX: 1\r\n",
        b"5\r\nhello\r\n0\r\nX: 1\r\n\r\n",
    ]


MALFORMED = [
    b"\r\n",
    b"x\r\n",
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\n",
    b" 1\r\n",
    b"1 \r\n",
    b"0x1\r\n",
    b"1_0\r\n",
    b"1,1\r\n",
    b"1\t\r\n",
    b"1;\r\n",
    b"1;=a\r\n",
    b'1;a="b\r\n',
    b"1;a=b c\r\n",
    b"1;a=\x00\r\n",
    b"1;a\x7f\r\n",
    b"1 a\r\n",
    b"1000000000000000\r\n",
    b"ffffffffffffffff\r\n",
    b"\xd9\xa5\r\n",
    b"1\n",
    b"1\rx",
    b"1\r\r\n",
    b"1;a\nb\r\n",
    b"1;a\rb\r\n",
    b"1\r\nab\r\n",
    b"1\r\na\n0\r\n\r\n",
    b"1\r\na0\r\n\r\n",
    b"1\r\na\rb",
    b"1\r\naX",
]


@pytest.mark.parametrize("raw", MALFORMED)
def test_malformed_chunks_are_refused(raw: bytes) -> None:
    with pytest.raises(BadFraming):
        Outcome(raw)
    with pytest.raises(BadFraming):
        Outcome(*(bytes([byte]) for byte in raw))


@pytest.mark.parametrize("trailer", [b"X", b"X\n", b": 1", b"X : 1", b"X: a\nY: b", b" X: 1", b"X: a\x00", b"X\xe9: 1"])
def test_a_malformed_trailer_is_refused(trailer: bytes) -> None:
    with pytest.raises(BadHeader):
        Outcome(b"0\r\n" + trailer + b"\r\n\r\n")


@pytest.mark.parametrize("name", [b"Content-Length", b"transfer-encoding", b"Host", b"Trailer", b"Connection", b"TE"])
def test_a_trailer_cannot_change_the_framing(name: bytes) -> None:
    with pytest.raises(BadFraming):
        Outcome(b"0\r\n" + name + b": 1\r\n\r\n")


def test_spaces_around_an_extension_are_let_through() -> None:
    """RFC 9112 §7.1.1 has them as "bad" but valid; h11 refuses them, so they are not among the bodies above."""
    raw = b"2 ; a = b\r\n\r\n\r\n0\t;c\r\n\r\n"
    outcome = Outcome(raw)
    assert (outcome.done, outcome.forwarded, outcome.payload) == (True, raw, b"\r\n")


@pytest.mark.parametrize("bad", [b"zz", b"1; \x01", b"1 "])
def test_nothing_of_a_malformed_line_is_forwarded_before_it_is_refused(bad: bytes) -> None:
    chunks = ChunkedBody()
    forwarded = b"".join(chunks.feed(bytes([byte]))[0] for byte in b"1\r\na\r\n" + bad + b"\r")
    assert forwarded == b"1\r\na\r\n"
    with pytest.raises(BadFraming):
        chunks.feed(b"\n")


@pytest.mark.parametrize("step", [1, 1000, 10**6])
def test_a_size_line_has_a_limit_whether_or_not_it_ends(step: int) -> None:
    longest = b"1;" + b"x" * (MAX_LINE_BYTES - 2)
    assert Outcome(longest + b"\r\na\r\n0\r\n\r\n").done
    for raw in (longest + b"x\r\n", longest + b"xx" * 100):
        with pytest.raises(BadFraming):
            Outcome(*(raw[at : at + step] for at in range(0, len(raw), step)))


def test_the_trailers_together_have_a_limit() -> None:
    line = b"X: " + b"x" * 997
    assert Outcome(b"0\r\n" + (line + b"\r\n") * (MAX_TRAILER_BYTES // 1000) + b"\r\n").done
    with pytest.raises(BadFraming):
        Outcome(b"0\r\n" + (line + b"\r\n") * (MAX_TRAILER_BYTES // 1000 + 1))
    with pytest.raises(BadFraming):
        Outcome(b"0\r\nX: ", b"x" * MAX_TRAILER_BYTES)


@given(st.binary(max_size=120), st.integers(0, 120))
def test_noise_is_refused_or_waited_for_alike_in_one_piece_and_in_two(noise: bytes, cut: int) -> None:
    def run(*pieces: bytes) -> tuple[object, ...]:
        try:
            outcome = Outcome(*pieces)
        except BadRequest as error:
            return (type(error),)
        return (outcome.done, outcome.payload, outcome.rest, outcome.forwarded)

    assert run(noise) == run(noise[:cut], noise[cut:])


@given(chunked_bodies(), st.integers(0, 400))
def test_the_beginning_of_a_body_can_be_looked_at(body: bytes, cut: int) -> None:
    assert h11_payload(body).startswith(decoded(body[:cut]))
    assert decoded(body) == h11_payload(body)


class TestLimit:
    """`limit_bytes` counts what chunks hold, not their sizes' lines nor trailers."""

    def test_a_body_of_just_that_length_passes(self) -> None:
        body = ChunkedBody()
        body.limit_bytes = 5
        assert body.feed(b"2\r\nab\r\n3;x=1\r\ncde\r\n0\r\nA: b\r\n\r\n")[1] == b""
        assert (body.done, body.received) == (True, 5)

    @pytest.mark.parametrize("raw", [b"6\r\n", b"2\r\nab\r\n4\r\n", b"fffffffffffffff\r\n"])
    def test_a_chunk_that_would_pass_it_is_refused_before_it_comes(self, raw: bytes) -> None:
        for size in range(1, len(raw) + 1):
            body = ChunkedBody()
            body.limit_bytes = 5
            pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
            with pytest.raises(BodyTooLarge) as caught:
                deque(map(body.feed, pieces))
            assert caught.value.facts == {"limit_bytes": 5}

    def test_it_holds_for_what_has_been_announced_before_it_was_set(self) -> None:
        body = ChunkedBody()
        body.feed(b"6\r\nab")
        body.bound(6)
        with pytest.raises(BodyTooLarge):
            body.bound(5)
        assert body.received == 2
