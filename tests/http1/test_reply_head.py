import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.errors import BadRequest
from sglang_diffusion_routing.http1.fields import HOP_BY_HOP
from sglang_diffusion_routing.http1.reply_head import ReplyHead, parse_reply_head

pytestmark = pytest.mark.core


def head_of(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", to_head: bool = False) -> ReplyHead:
    return parse_reply_head(b"\r\n".join([line, *fields]) + b"\r\n\r\n", to_head=to_head)


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 999 Odd", 999, b"Odd"),
        (b"HTTP/1.1 100 Continue", 100, b"Continue"),
        (b"HTTP/1.1 418 I'm a teapot", 418, b"I'm a teapot"),
        (b"HTTP/1.1 200 a\tb \xe9", 200, b"a\tb \xe9"),
        (b"HTTP/1.0 404 Not Found", 404, b"Not Found"),
    ],
)
def test_the_status_line_is_read(line: bytes, status: int, reason: bytes) -> None:
    head = head_of(line=line)
    assert (head.status, head.reason, head.http_10) == (status, reason, line.startswith(b"HTTP/1.0"))


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 099 x",
        b"HTTP/1.1 000 x",
        b"HTTP/1.1 20 x",
        b"HTTP/1.1 1000 x",
        b"HTTP/1.1 2x0 x",
        b"HTTP/1.1 -200 x",
        b"HTTP/1.1  200 x",
        b" HTTP/1.1 200 x",
        b"HTTP/1.1\t200 x",
        b"HTTP/1.2 200 x",
        b"HTTP/2.0 200 x",
        b"HTTP/0.9 200 x",
        b"http/1.1 200 x",
        b"ICY 200 x",
        b"RTSP/1.0 200 x",
        b"200 OK",
        b"",
        b"HTTP/1.1 200 a\x01",
        b"HTTP/1.1 200 a\x00b",
        b"HTTP/1.1 200 a\x7f",
        b"HTTP/1.1 200 a\x1b[31m",
        b"\r\nHTTP/1.1 200 OK",
    ],
)
def test_a_malformed_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest):
        head_of(b"Content-Length: 0", line=line)


class TestFraming:
    @pytest.mark.parametrize(
        ("line", "fields", "to_head", "framing"),
        [
            # framing: content_length, chunked, until_close, keep_alive
            (b"HTTP/1.1 200 OK", [b"Content-Length: 5"], False, (5, False, False, True)),
            (b"HTTP/1.1 200 OK", [b"content-length:\t5 "], False, (5, False, False, True)),
            (b"HTTP/1.1 200 OK", [b"Content-Length: 0"], False, (0, False, False, True)),
            (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: Chunked"], False, (None, True, False, True)),
            (b"HTTP/1.1 200 OK", [], False, (None, False, True, False)),
            (b"HTTP/1.1 200 OK", [b"Connection: keep-alive"], False, (None, False, True, False)),
            (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: close"], False, (5, False, False, False)),
            (b"HTTP/1.1 200 OK", [], True, (None, False, False, True)),
            (b"HTTP/1.1 200 OK", [b"Content-Length: 5"], True, (5, False, False, True)),
            (b"HTTP/1.1 204 No", [], False, (None, False, False, True)),
            (b"HTTP/1.1 304 No", [], False, (None, False, False, True)),
            (b"HTTP/1.1 103 Hi", [], False, (None, False, False, True)),
            (b"HTTP/1.0 200 OK", [], False, (None, False, True, False)),
            (b"HTTP/1.0 200 OK", [b"Content-Length: 5"], False, (5, False, False, False)),
            (b"HTTP/1.0 200 OK", [b"Content-Length: 5", b"Connection: keep-alive"], False, (5, False, False, True)),
            (b"HTTP/1.0 200 OK", [b"Connection: keep-alive"], False, (None, False, True, False)),
            (
                b"HTTP/1.0 200 OK",
                [b"Content-Length: 5", b"Connection: keep-alive, close"],
                False,
                (5, False, False, False),
            ),
        ],
    )
    def test_the_end_of_the_body_is_known(
        self, line: bytes, fields: list[bytes], to_head: bool, framing: tuple[int | None, bool, bool, bool]
    ) -> None:
        head = head_of(*fields, line=line, to_head=to_head)
        assert (head.content_length, head.chunked, head.until_close, head.keep_alive) == framing
        assert head.is_sized == (framing[0] is not None)

    @pytest.mark.parametrize(
        "fields",
        [
            [b"Content-Length: 5", b"Content-Length: 5"],
            [b"Content-Length: 5", b"Content-Length: 6"],
            [b"Content-Length: 5, 5"],
            [b"Content-Length: +5"],
            [b"Content-Length: -5"],
            [b"Content-Length: 05"],
            [b"Content-Length: 0x5"],
            [b"Content-Length:"],
            [b"Content-Length: 99999999999999999999"],
            [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
            [b"Transfer-Encoding: gzip"],
            [b"Transfer-Encoding: gzip, chunked"],
            [b"Transfer-Encoding: chunked, gzip"],
            [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"],
            [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding:"],
        ],
    )
    def test_an_uncertain_end_is_refused(self, fields: list[bytes]) -> None:
        with pytest.raises(BadRequest):
            head_of(*fields)

    def test_http_1_0_has_no_codings(self) -> None:
        with pytest.raises(BadRequest):
            head_of(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK")

    @pytest.mark.parametrize("nomination", [b"content-length", b"close, Content-Length"])
    def test_a_length_cannot_be_nominated_away(self, nomination: bytes) -> None:
        """Else the client would wait for an end that it cannot see."""
        head = head_of(b"Connection: " + nomination, b"Content-Length: 5")
        assert (head.content_length, head.lines) == (5, [b"Content-Length: 5\r\n"])

    def test_a_204_is_passed_on_without_a_length(self) -> None:
        head = head_of(b"Content-Length: 5", b"X: 1", line=b"HTTP/1.1 204 No Content")
        assert head.lines == [b"X: 1\r\n"]

    def test_a_304_keeps_the_length_of_what_it_stands_for(self) -> None:
        head = head_of(b"Content-Length: 5", line=b"HTTP/1.1 304 Not Modified")
        assert head.lines == [b"Content-Length: 5\r\n"]


class TestHeaders:
    def test_end_to_end_fields_keep_their_order_their_case_and_their_repetition(self) -> None:
        fields = [
            b"date: Tue, 15 Nov 1994 08:12:31 GMT",
            b"Server: uvicorn",
            b"Set-Cookie: a=1",
            b"Content-Encoding: gzip",
            b"set-cookie: b=2",
            b"content-length: 3",
            b"Location: /x",
            b"X-Empty: ",
            b"X-Bytes: \xe9",
        ]
        head = head_of(*fields)
        assert head.lines == [field + b"\r\n" for field in fields]

    @pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"transfer-encoding"}))
    def test_hop_by_hop_fields_end_here(self, name: bytes) -> None:
        assert head_of(name.title() + b": x", b"X-A: 1").lines == [b"X-A: 1\r\n"]

    def test_nominated_fields_end_here(self) -> None:
        assert head_of(b"X-A: 1", b"Connection: x-a, x-b", b"X-B: 1", b"X-C: 1").lines == [b"X-C: 1\r\n"]

    def test_fields_that_only_the_router_may_write_end_here(self) -> None:
        assert head_of(b"X-SGLang-Router-Worker: evil", b"X-A: 1").lines == [b"X-A: 1\r\n"]

    @pytest.mark.parametrize(
        ("fields", "has"), [([b"Location: /x"], True), ([b"content-location: /x"], True), ([b"X-Location: /x"], False)]
    )
    def test_a_location_is_noticed(self, fields: list[bytes], has: bool) -> None:
        assert head_of(*fields).has_location == has

    def test_an_upgrade_is_noticed(self) -> None:
        head = head_of(b"Upgrade: websocket", b"Connection: Upgrade", line=b"HTTP/1.1 101 Switching Protocols")
        assert (head.status, head.upgrade, head.lines) == (101, b"websocket", [])

    @pytest.mark.parametrize(
        "field", [b"X : a", b" X: a", b": a", b"X", b"X: a\rb", b"X: a\nb", b"X: a\x00", b"X: a\x7f", b"X: a\r\n b"]
    )
    def test_a_malformed_header_line_is_refused(self, field: bytes) -> None:
        with pytest.raises(BadRequest):
            head_of(field, b"Content-Length: 0")

    def test_a_field_is_found_by_its_lower_case_name(self) -> None:
        head = head_of(b"Content-Type: a/b", b"content-type: c/d")
        assert (head.field(b"content-type"), head.field(b"x")) == (b"a/b", None)


@given(st.binary(max_size=300))
def test_noise_is_read_or_refused_and_never_anything_else(noise: bytes) -> None:
    try:
        head = parse_reply_head(b"HTTP/1.1 200 " + noise.replace(b"\r\n\r\n", b"") + b"\r\n\r\n", to_head=False)
    except BadRequest:
        return
    assert b"\r" not in head.reason
    assert b"\n" not in head.reason
    assert all(line.endswith(b"\r\n") and b"\n" not in line[:-2] for line in head.lines)
