import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.errors import (
    BadFraming,
    BadHeader,
    BadHost,
    BadRequest,
    BadTarget,
    UnknownCoding,
    UnknownExpectation,
    UnknownMethod,
    UriTooLong,
)
from sglang_diffusion_routing.http1.fields import HOP_BY_HOP
from sglang_diffusion_routing.http1.request_head import RequestHead, parse_request_head

pytestmark = pytest.mark.core

MAX_URI = 16384


FIELD_NAME = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_!#$%&'*+.^`|~", min_size=1, max_size=12
)
FIELD_VALUE = st.binary(max_size=30).map(lambda raw: bytes(b for b in raw if b >= 32 and b != 127).strip())


def parsed(raw: bytes) -> RequestHead:
    return parse_request_head(raw, MAX_URI)


def head_of(*fields: bytes, line: bytes = b"POST /x HTTP/1.1", host: bytes | None = b"Host: a") -> RequestHead:
    lines = [line, *([] if host is None else [host]), *fields]
    return parsed(b"\r\n".join(lines) + b"\r\n\r\n")


class TestTarget:
    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            (b"/", b"/", None),
            (b"/a/b", b"/a/b", None),
            (b"/a?", b"/a", b""),
            (b"/a?b=1&c=%20", b"/a", b"b=1&c=%20"),
            (b"/a?b?c", b"/a", b"b?c"),
            (b"//a/../b/./%41%2f", b"//a/../b/./%41%2f", None),
            (b"/a;v=1", b"/a;v=1", None),
            (b"/?%00", b"/", b"%00"),
            (b'/"<>^`{|}\\', b'/"<>^`{|}\\', None),
            (b"/%zz%", b"/%zz%", None),
        ],
    )
    def test_a_path_and_its_query_stay_as_they_were_sent(self, target: bytes, path: bytes, query: bytes | None) -> None:
        head = head_of(line=b"GET %b HTTP/1.1" % target)
        assert (head.method, head.target, head.path, head.query) == (b"GET", target, path, query)

    @pytest.mark.parametrize(
        ("target", "host", "reduced"),
        [
            (b"http://b", b"b", b"/"),
            (b"http://b/", b"b", b"/"),
            (b"http://b:81/x?y", b"b:81", b"/x?y"),
            (b"https://b?y", b"b", b"/?y"),
            (b"HTTP://B/%41", b"B", b"/%41"),
            (b"http://[::1]:8/x", b"[::1]:8", b"/x"),
            (b"http://b//x", b"b", b"//x"),
        ],
    )
    def test_an_absolute_form_replaces_the_host(self, target: bytes, host: bytes, reduced: bytes) -> None:
        head = head_of(line=b"GET %b HTTP/1.1" % target)
        assert (head.host, head.target) == (host, reduced)

    @pytest.mark.parametrize("target", [b"http://u@b/", b"http://u:p@b/", b"http:///x", b"http://b:x/", b"http://a,b/"])
    def test_an_absolute_form_needs_a_plain_authority(self, target: bytes) -> None:
        with pytest.raises(BadHost):
            head_of(line=b"GET %b HTTP/1.1" % target)

    @pytest.mark.parametrize(
        "target", [b"*", b"a", b"ftp://b/", b"?x", b"x/y", b"http:/b", b"b:80", b"/a#b", b"/#", b"/a%00", b"/%00?x"]
    )
    def test_anything_else_is_no_target(self, target: bytes) -> None:
        with pytest.raises(BadTarget):
            head_of(line=b"GET %b HTTP/1.1" % target)

    @pytest.mark.parametrize("byte", [*range(0x20), *range(0x7F, 0x100)])
    def test_a_target_is_printable_ascii(self, byte: int) -> None:
        with pytest.raises(BadRequest):
            head_of(line=b"GET /a%bb HTTP/1.1" % bytes([byte]))

    def test_the_asterisk_is_for_options_alone(self) -> None:
        assert head_of(line=b"OPTIONS * HTTP/1.1").target == b"*"
        for method in (b"GET", b"HEAD", b"POST", b"TRACE"):
            with pytest.raises(BadTarget):
                head_of(line=b"%b * HTTP/1.1" % method)

    def test_connect_has_an_authority(self) -> None:
        head = head_of(line=b"CONNECT b:443 HTTP/1.1")
        assert (head.method, head.target) == (b"CONNECT", b"b:443")

    def test_the_limit_counts_the_target_alone(self) -> None:
        longest = b"/" + b"x" * 99
        raw = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
        assert parse_request_head(raw % longest, 100).target == longest
        with pytest.raises(UriTooLong):
            parse_request_head(raw % (longest + b"x"), 100)


class TestRequestLine:
    @pytest.mark.parametrize(
        "method",
        b"GET HEAD POST PUT PATCH DELETE OPTIONS TRACE PROPFIND MKCOL M-SEARCH QUERY PURGE REPORT LOCK".split(),
    )
    def test_methods_that_llhttp_knows_are_taken(self, method: bytes) -> None:
        assert head_of(line=method + b" /x HTTP/1.1").method == method

    @pytest.mark.parametrize("method", [b"get", b"Get", b"FOO", b"GETT", b"G", b"BREW", b"G-T", b"12"])
    def test_other_methods_are_unknown(self, method: bytes) -> None:
        with pytest.raises(UnknownMethod):
            head_of(line=method + b" /x HTTP/1.1")

    @pytest.mark.parametrize(
        "line", [b"", b"\x16\x03\x01 /", b"G(T / HTTP/1.1", b"{} / HTTP/1.1", b"FOO", b"SSH-2.0-x\t"]
    )
    def test_what_does_not_begin_with_a_method_is_not_http(self, line: bytes) -> None:
        with pytest.raises(BadRequest) as caught:
            head_of(line=line)
        assert caught.value.http_status == 400

    @pytest.mark.parametrize(
        "line",
        [
            b"GET /",
            b"GET / ",
            b"GET /  HTTP/1.1",
            b"GET  / HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET\t/ HTTP/1.1",
            b"GET /\tHTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET / HTTP/1.1\t",
            b"GET / HTTP/1.2",
            b"GET / HTTP/1.10",
            b"GET / HTTP/01.1",
            b"GET / HTTP/2.0",
            b"GET / HTTP/0.9",
            b"GET / HTTP/1",
            b"GET / http/1.1",
            b"GET / HTTPS/1.1",
            b"GET /a b HTTP/1.1",
            b"DESCRIBE / HTTP/1.1",
            b"DESCRIBE / RTSP/1.0",
            b"SOURCE / ICE/1.0",
            b"PRI * HTTP/2.0",
            b"HTTP/1.1 200 OK",
        ],
    )
    def test_a_malformed_line_is_refused(self, line: bytes) -> None:
        with pytest.raises(BadRequest):
            head_of(line=line)

    def test_bare_line_feeds_are_refused(self) -> None:
        for raw in (
            b"GET / HTTP/1.1\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
            b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\nX: 1\r\n\r\n",
        ):
            with pytest.raises(BadRequest):
                parsed(raw)


class TestHost:
    @pytest.mark.parametrize("host", [b"a", b"a:80", b"[::1]:80", b"127.0.0.1"])
    def test_one_plain_host_is_read(self, host: bytes) -> None:
        assert head_of(host=b"Host: " + host).host == host

    @pytest.mark.parametrize(
        "field", [b"Host:", b"Host: ", b"Host: a b", b"Host: a, b", b"Host: a/x", b"Host: u@a", b"Host: a\tb"]
    )
    def test_a_host_that_is_none_is_refused(self, field: bytes) -> None:
        with pytest.raises(BadHost):
            head_of(host=field)

    @pytest.mark.parametrize("second", [b"Host: a", b"Host: b", b"hOST: a"])
    def test_a_second_host_is_refused_even_if_it_is_the_same(self, second: bytes) -> None:
        with pytest.raises(BadHost):
            head_of(second)

    def test_only_http_1_0_may_leave_it_out(self) -> None:
        with pytest.raises(BadHost):
            head_of(host=None)
        assert head_of(line=b"GET / HTTP/1.0", host=None).host == b""

    def test_it_is_required_beside_an_absolute_target_too(self) -> None:
        with pytest.raises(BadHost):
            head_of(line=b"GET http://b/ HTTP/1.1", host=None)
        with pytest.raises(BadHost):
            head_of(line=b"GET http://b/ HTTP/1.1", host=b"Host: u@a")


class TestFraming:
    @pytest.mark.parametrize(
        ("fields", "length", "chunked", "has_body"),
        [
            ([], None, False, False),
            ([b"Content-Length: 0"], 0, False, False),
            ([b"Content-Length: 5"], 5, False, True),
            ([b"content-length:5"], 5, False, True),
            ([b"Content-Length:\t 5 \t"], 5, False, True),
            ([b"Transfer-Encoding: chunked"], None, True, True),
            ([b"transfer-encoding:CHUNKED "], None, True, True),
        ],
    )
    def test_a_body_is_sized_or_chunked(
        self, fields: list[bytes], length: int | None, chunked: bool, has_body: bool
    ) -> None:
        head = head_of(*fields)
        assert (head.content_length, head.chunked, head.has_body) == (length, chunked, has_body)

    @pytest.mark.parametrize(
        "fields",
        [
            [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
            [b"Content-Length: 5", b"Content-Length: 5"],
            [b"Content-Length: 5", b"Content-Length: 6"],
            [b"Content-Length: 5, 5"],
            [b"Content-Length: +5"],
            [b"Content-Length: -5"],
            [b"Content-Length: 05"],
            [b"Content-Length: 5 5"],
            [b"Content-Length: 0x5"],
            [b"Content-Length:"],
            [b"Content-Length: 99999999999999999999"],
            [b"Content-Length: 18446744073709551616"],
        ],
    )
    def test_an_unclear_length_is_refused(self, fields: list[bytes]) -> None:
        with pytest.raises(BadFraming) as caught:
            head_of(*fields)
        assert caught.value.http_status == 400

    @pytest.mark.parametrize(
        ("codings", "error"),
        [
            ([b"gzip"], UnknownCoding),
            ([b"identity"], UnknownCoding),
            ([b"xchunked"], UnknownCoding),
            ([b"gzip, chunked"], UnknownCoding),
            ([b"gzip", b"chunked"], UnknownCoding),
            ([b""], BadFraming),
            ([b"x y"], BadFraming),
            ([b"chunked;q=1"], BadFraming),
            ([b"chunked, gzip"], BadFraming),
            ([b"chunked, identity"], BadFraming),
            ([b"chunked, chunked"], BadFraming),
            ([b"chunked", b"chunked"], BadFraming),
            ([b"chunked", b"gzip"], BadFraming),
        ],
    )
    def test_any_coding_but_one_chunked_is_refused(self, codings: list[bytes], error: type[BadFraming]) -> None:
        with pytest.raises(BadFraming) as caught:
            head_of(*(b"Transfer-Encoding: " + coding for coding in codings))
        assert type(caught.value) is error

    def test_http_1_0_has_no_codings(self) -> None:
        with pytest.raises(BadFraming):
            head_of(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")

    @pytest.mark.parametrize("line", [b"POST /x HTTP/1.1", b"POST /x HTTP/1.0"])
    @pytest.mark.parametrize("nomination", [b"content-length", b"close, Content-Length", b"CONTENT-LENGTH, x"])
    def test_a_length_cannot_be_nominated_away(self, line: bytes, nomination: bytes) -> None:
        """Else the body would reach the worker as the next request."""
        head = head_of(b"Connection: " + nomination, b"Content-Length: 5", line=line)
        assert (head.content_length, head.lines) == (5, [b"Content-Length: 5\r\n"])

    def test_a_coding_cannot_be_nominated_away(self) -> None:
        head = head_of(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked")
        assert head.block == b"Transfer-Encoding: chunked\r\n"


class TestHeaders:
    @pytest.mark.parametrize(
        "field",
        [
            b"X : a",
            b"X\t: a",
            b" X: a",
            b"\tX: a",
            b": a",
            b"X",
            b"X: a\r b",
            b"X: a\rb",
            b"X: a\nb",
            b"X: a\x00",
            b"X: \x01",
            b"X: a\x0bb",
            b"X: a\x7f",
            b"X\xff: a",
            b"X(: a",
            b"X;Y: a",
            b'"X": a',
            b"X: a\r\n folded",
            b"X: a\r\n\tfolded",
        ],
    )
    def test_a_malformed_header_line_is_refused(self, field: bytes) -> None:
        with pytest.raises(BadHeader) as caught:
            head_of(field)
        assert caught.value.http_status == 400

    def test_end_to_end_fields_keep_their_order_their_case_and_their_repetition(self) -> None:
        fields = [
            b"x-b: 2",
            b"Accept-Encoding: gzip",
            b"X-A: 1",
            b"x-b: 1",
            b"Cookie: a=1; b=2",
            b"Content-Length: 3",
            b"Cookie: c=3",
            b"AUTHORIZATION: Bearer t",
            b"X-Empty: ",
            b"Date: Tue, 15 Nov 1994 08:12:31 GMT",
            b"X-Bytes: \xe9\xff",
            b"X-Tab: a\tb",
        ]
        head = head_of(*fields)
        assert head.lines == [field + b"\r\n" for field in fields]
        assert head.block == b"".join(head.lines)

    @pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"transfer-encoding"}))
    def test_hop_by_hop_fields_end_here(self, name: bytes) -> None:
        assert head_of(name.title() + b": x", b"X-A: 1").lines == [b"X-A: 1\r\n"]

    def test_fields_that_the_router_writes_itself_are_taken_out(self) -> None:
        head = head_of(
            b"Via: 1.0 one",
            b"X-Forwarded-For: 1.2.3.4",
            b"via: 1.1 two, 1.1 three",
            b"X-Forwarded-For: 5.6.7.8",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: site.example",
            b"X-Forwarded-Port: 443",
        )
        assert head.lines == [b"X-Forwarded-Port: 443\r\n"]
        assert head.via == [b"1.0 one", b"1.1 two, 1.1 three"]
        assert head.forwarded_for == [b"1.2.3.4", b"5.6.7.8"]
        assert (head.forwarded_proto, head.forwarded_host) == (b"https", b"site.example")

    def test_ids_are_read_and_passed_on(self) -> None:
        fields = [b"traceparent: 00-1-2-01", b"X-Request-Id: r1", b"Idempotency-Key: k1"]
        head = head_of(*fields)
        assert head.lines == [field + b"\r\n" for field in fields]
        assert (head.traceparent, head.request_id, head.idempotency_key) == (b"00-1-2-01", b"r1", b"k1")

    def test_the_router_s_own_fields_are_read_and_not_passed_on(self) -> None:
        head = head_of(b"X-SGLang-Router-Min-Weight-Version: 7", b"x-sglang-routers: 1", b"x-sglang-router-peer: me:1")
        assert head.lines == [b"x-sglang-routers: 1\r\n"]
        assert head.router_fields == {b"x-sglang-router-min-weight-version": b"7", b"x-sglang-router-peer": b"me:1"}

    def test_nominated_fields_end_here(self) -> None:
        head = head_of(b"X-A: 1", b"Connection: close, x-a", b"X-B: 2", b"connection: X-C", b"x-c: 3")
        assert head.lines == [b"X-B: 2\r\n"]

    @pytest.mark.parametrize("other", [b"Connection: x-a", b"Connection: keep-alive, X-A"])
    def test_nominated_fields_end_here_without_a_host_too(self, other: bytes) -> None:
        head = head_of(b"Content-Length: 3", other, b"X-A: 1", line=b"POST / HTTP/1.0", host=None)
        assert head.lines == [b"Content-Length: 3\r\n"]

    @pytest.mark.parametrize(
        ("field", "attribute", "value"),
        [
            (b"Via: 1.1 me", "via", [b"1.1 me"]),
            (b"X-Request-Id: r", "request_id", b"r"),
            (b"traceparent: t", "traceparent", b"t"),
            (b"Idempotency-Key: k", "idempotency_key", b"k"),
            (b"X-Forwarded-For: 1.2.3.4", "forwarded_for", [b"1.2.3.4"]),
            (b"Connection: keep-alive", "keep_alive", True),
        ],
    )
    def test_http_1_0_without_a_host_is_read_like_any_other(self, field: bytes, attribute: str, value: object) -> None:
        head = head_of(b"Content-Length: 3", field, line=b"POST / HTTP/1.0", host=None)
        assert getattr(head, attribute) == value

    def test_a_field_is_found_by_its_lower_case_name(self) -> None:
        head = head_of(b"Content-Type: a/b", b"content-type: c/d", b"X-A:1")
        assert (head.field(b"content-type"), head.field(b"x-a"), head.field(b"x")) == (b"a/b", b"1", None)

    @given(st.lists(st.tuples(FIELD_NAME.map("X-".__add__), FIELD_VALUE), max_size=12))
    def test_all_other_fields_come_out_as_they_went_in(self, fields: list[tuple[str, bytes]]) -> None:
        lines = [b"%b: %b" % (name.encode(), value) for name, value in fields]
        named = {b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
        kept = [line for line in lines if line.partition(b":")[0].lower() not in named]
        assert head_of(*kept).lines == [line + b"\r\n" for line in kept]


class TestConnection:
    @pytest.mark.parametrize(
        ("line", "fields", "keep_alive"),
        [
            (b"GET / HTTP/1.1", [], True),
            (b"GET / HTTP/1.1", [b"Connection: keep-alive"], True),
            (b"GET / HTTP/1.1", [b"Connection: close"], False),
            (b"GET / HTTP/1.1", [b"Connection: Close"], False),
            (b"GET / HTTP/1.1", [b"Connection: x, CLOSE"], False),
            (b"GET / HTTP/1.1", [b"Connection: x", b"Connection: close"], False),
            (b"GET / HTTP/1.1", [b"Connection: closed"], True),
            (b"GET / HTTP/1.0", [], False),
            (b"GET / HTTP/1.0", [b"Connection: keep-alive"], True),
            (b"GET / HTTP/1.0", [b"Connection: Keep-Alive"], True),
            (b"GET / HTTP/1.0", [b"Connection: keep-alive, close"], False),
            (b"GET / HTTP/1.0", [b"Connection: x"], False),
            (b"POST / HTTP/1.0", [b"Content-Length: 3"], False),
            (b"POST / HTTP/1.0", [b"Content-Length: 3", b"Connection: keep-alive"], True),
            (b"CONNECT b:443 HTTP/1.1", [], False),
            (b"CONNECT b:443 HTTP/1.1", [b"Content-Length: 3"], False),
        ],
    )
    def test_the_connection_goes_on_as_the_version_and_the_field_say(
        self, line: bytes, fields: list[bytes], keep_alive: bool
    ) -> None:
        assert head_of(*fields, line=line).keep_alive == keep_alive

    def test_an_upgrade_is_noticed(self) -> None:
        head = head_of(b"Connection: Upgrade", b"Upgrade: websocket", b"X: 1", line=b"GET / HTTP/1.1")
        assert (head.upgrade, head.lines) == (b"websocket", [b"X: 1\r\n"])

    @pytest.mark.parametrize(
        ("line", "fields"),
        [
            (b"GET / HTTP/1.0", [b"Connection: upgrade", b"Upgrade: websocket"]),
            (b"POST / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: websocket"]),
            (b"GET / HTTP/1.1", [b"Upgrade: websocket"]),
            (b"GET / HTTP/1.1", [b"Connection: upgrade"]),
            (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: h2c"]),
            (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: websocket, h2c"]),
            (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c"]),
            (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 1"]),
            (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked"]),
        ],
    )
    def test_an_upgrade_is_to_websocket_by_a_get_of_http_1_1_without_a_body(
        self, line: bytes, fields: list[bytes]
    ) -> None:
        assert head_of(*fields, line=line).upgrade is None


class TestExpectation:
    @pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
    def test_the_known_one_is_noticed_and_passed_on(self, value: bytes) -> None:
        head = head_of(b"Expect: " + value, b"Content-Length: 3")
        assert (head.expects_continue, head.lines) == (True, [b"Expect: %b\r\n" % value, b"Content-Length: 3\r\n"])

    @pytest.mark.parametrize("value", [b"", b"x", b"100-continue, x", b"200-ok"])
    def test_any_other_is_refused(self, value: bytes) -> None:
        with pytest.raises(UnknownExpectation):
            head_of(b"Expect: " + value)

    @pytest.mark.parametrize("host", [b"Host: a", None])
    def test_http_1_0_has_none(self, host: bytes | None) -> None:
        head = head_of(b"Expect: 100-continue", b"Content-Length: 3", line=b"POST / HTTP/1.0", host=host)
        assert (head.expects_continue, head.lines) == (False, [b"Content-Length: 3\r\n"])

    def test_it_cannot_be_nominated_away(self) -> None:
        """Else no worker would see it, none would say 100, and the client would wait for it."""
        head = head_of(b"Expect: 100-continue", b"Connection: expect", b"Content-Length: 3")
        assert (head.expects_continue, head.lines) == (True, [b"Expect: 100-continue\r\n", b"Content-Length: 3\r\n"])


@pytest.mark.parametrize("size", [100, 5000])
def test_a_head_that_repeats_is_read_the_same(size: int) -> None:
    """Short ones are remembered, long ones are read again."""
    raw = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: %b\r\n\r\n" % (b"x" * size)
    first, second = parsed(raw), parsed(raw)
    assert (first.lines, first.content_length, first.target) == (second.lines, second.content_length, second.target)
    assert first.size_bytes == second.size_bytes == len(raw)


def test_what_was_refused_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(BadHost):
            parsed(b"GET / HTTP/1.1\r\n\r\n")


def test_a_remembered_head_knows_its_limit() -> None:
    raw = b"GET /0123456789 HTTP/1.1\r\nHost: a\r\n\r\n"
    assert parse_request_head(raw, 100).target == b"/0123456789"
    with pytest.raises(UriTooLong):
        parse_request_head(raw, 5)


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_head_can_send_on_other_lines_than_it_was_read_from(framing: bytes) -> None:
    head = parsed(b"POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\n%b\r\n\r\n" % framing)
    block = head.block
    twin = head.with_block_of([line for line in head.lines if not line.startswith(b"Auth")] + [b"X: 1\r\n"])
    assert sorted(twin.block.split(b"\r\n")) == sorted([b"", b"X: 1", framing])
    assert (head.block, head.chunked, twin.chunked) == (block, framing[:1] == b"T", framing[:1] == b"T")
    assert (twin.field(b"authorization"), twin.path, twin.has_body) == (b"Bearer k", b"/x", True)


@given(st.binary(max_size=300))
def test_noise_is_read_or_refused_and_never_anything_else(noise: bytes) -> None:
    raw = b"GET /" + noise.replace(b"\r\n\r\n", b"") + b"\r\n\r\n"
    try:
        head = parsed(raw)
    except BadRequest:
        return
    assert b"\r" not in head.target
    assert all(line.endswith(b"\r\n") and b"\n" not in line[:-2] for line in head.lines)
