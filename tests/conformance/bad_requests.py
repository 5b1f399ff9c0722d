"""Requests that a proxy must refuse, as data: what is sent, and the status and code of the refusal."""

from dataclasses import dataclass

from support.client import request


@dataclass(frozen=True, slots=True)
class Bad:
    """A request to be refused with `status` and one of `codes`."""

    name: str
    sent: bytes
    status: int
    codes: tuple[str, ...]


def _head(name: str, sent: bytes, status: int = 400, *codes: str) -> Bad:
    return Bad(name, sent, status, codes or ("bad_request", "bad_header"))


def _field(name: str, line: bytes, status: int = 400, *codes: str) -> Bad:
    """A GET with one malformed field line between two good ones."""
    sent = b"GET /bad HTTP/1.1\r\nHost: router.test\r\nX-Before: 1\r\n" + line + b"\r\nX-After: 1\r\n\r\n"
    return Bad(name, sent, status, codes or ("bad_request", "bad_header"))


def _target(name: str, target: bytes, *codes: str) -> Bad:
    return Bad(name, request(b"GET", target), 400, codes or ("bad_request", "bad_target"))


def _host(name: str, *lines: bytes) -> Bad:
    sent = b"\r\n".join([b"GET /bad HTTP/1.1", *lines, b"X-After: 1"]) + b"\r\n\r\n"
    return Bad(name, sent, 400, ("bad_host", "bad_request"))


def _framed(name: str, lines: bytes, status: int = 400, *codes: str) -> Bad:
    """A POST whose framing is `lines`; what follows is a request to a reader that frames it otherwise."""
    smuggled = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: router.test\r\n\r\n"
    sent = b"POST /bad HTTP/1.1\r\nHost: router.test\r\n" + lines + b"\r\n\r\n" + smuggled
    return Bad(name, sent, status, codes or ("bad_framing", "bad_header"))


def _coding(name: str, lines: bytes, *, unknown: bool = False) -> Bad:
    """A POST with a bad transfer coding: 501 when it is one that we do not know, 400 when it is none."""
    return _framed(name, lines, 501, "unknown_transfer_coding") if unknown else _framed(name, lines)


REQUEST_LINES = [
    _head("HTTP/0.9", b"GET /\r\n\r\n"),
    _head("no version", b"GET /bad\r\nHost: router.test\r\n\r\n"),
    _head("no target", b"GET HTTP/1.1\r\nHost: router.test\r\n\r\n", 400, "bad_request", "bad_target"),
    _head("empty target", b"GET  HTTP/1.1\r\nHost: router.test\r\n\r\n", 400, "bad_request", "bad_target"),
    _head("two spaces before the target", b"GET  /bad HTTP/1.1\r\nHost: router.test\r\n\r\n"),
    _head("two spaces before the version", b"GET /bad  HTTP/1.1\r\nHost: router.test\r\n\r\n"),
    _head("tab for a space", b"GET\t/bad HTTP/1.1\r\nHost: router.test\r\n\r\n", 400, "bad_request", "unknown_method"),
    _head("space after the version", b"GET /bad HTTP/1.1 \r\nHost: router.test\r\n\r\n"),
    _head("lower-case version", b"GET /bad http/1.1\r\nHost: router.test\r\n\r\n"),
    _head("version 1.10", b"GET /bad HTTP/1.10\r\nHost: router.test\r\n\r\n"),
    _head("version 2.0", b"GET /bad HTTP/2.0\r\nHost: router.test\r\n\r\n"),
    _head("another protocol", b"GET /bad RTSP/1.0\r\nHost: router.test\r\n\r\n"),
    _head("TLS", bytes.fromhex("16030100c6010000c20303") + bytes(range(1, 64)) + b"\r\n\r\n"),
    _head("noise", b"\x00\x01\x02\xff\xfe\r\n\r\n"),
    _head("a space first", b" GET /bad HTTP/1.1\r\nHost: router.test\r\n\r\n"),
    _head("bare LF line ends", b"GET /bad HTTP/1.1\nHost: router.test\n\n"),
    _head("bare LF after the request line", b"GET /bad HTTP/1.1\nHost: router.test\r\n\r\n"),
    _head(
        "bare CR in the request line",
        b"GET /bad\rx HTTP/1.1\r\nHost: router.test\r\n\r\n",
        400,
        "bad_request",
        "bad_target",
    ),
]

TARGETS = [
    _target("relative path", b"bad"),
    _target("asterisk with GET", b"*"),
    _target("authority with GET", b"router.test:80"),
    _target("NUL", b"/bad\x00"),
    _target("control character", b"/bad\x07"),
    _target("DEL", b"/bad\x7f"),
    _target("space", b"/bad path"),
    _target("tab", b"/bad\tpath"),
    _target("fragment", b"/bad?a=b#c"),
    _target("encoded NUL", b"/bad%00path", "bad_target"),
    _target("encoded NUL at the end", b"/workers%00", "bad_target"),
    _target("absolute form with userinfo", b"http://user@router.test/bad", "bad_target", "bad_host"),
    _target("absolute form without a host", b"http:///bad", "bad_target", "bad_host", "bad_request"),
    _target("absolute form of another scheme", b"ftp://router.test/bad"),
]

HOSTS = [
    _host("missing Host"),
    _host("empty Host", b"Host:"),
    _host("blank Host", b"Host:  \t "),
    _host("two equal Hosts", b"Host: router.test", b"Host: router.test"),
    _host("two Hosts", b"Host: router.test", b"hOST: other.test"),
    _host("two Hosts, one empty", b"Host: router.test", b"Host:"),
    _host("comma-joined Hosts", b"Host: router.test, other.test"),
    _host("Host with a path", b"Host: router.test/path"),
    _host("Host with userinfo", b"Host: user@router.test"),
    _host("Host with a space", b"Host: router test"),
    _host("Host with a scheme", b"Host: http://router.test"),
    _host("Host with a query", b"Host: router.test?x"),
    _host("Host with a fragment", b"Host: router.test#x"),
    _host("Host with a backslash", b"Host: router.test\\x"),
    _host("Host with a port that is no number", b"Host: router.test:port"),
    _host("Host with two ports", b"Host: router.test:80:81"),
    _host("Host with an open bracket", b"Host: [::1"),
    _host("Host with a list of addresses in brackets", b"Host: [::1][::2]"),
]

FIELDS = [
    _field("space before the colon", b"X-Bad : 1"),
    _field("tab before the colon", b"X-Bad\t: 1"),
    _field("folded line", b"X-Bad: 1\r\n folded: 2"),
    _field("line folded with a tab", b"X-Bad: 1\r\n\tfolded: 2"),
    _field("no colon", b"X-Bad"),
    _field("no name", b": 1"),
    _field("space in the name", b"X Bad: 1"),
    _field("parenthesis in the name", b"X-(Bad): 1"),
    _field("slash in the name", b"X/Bad: 1"),
    _field("NUL in the name", b"X\x00Bad: 1"),
    _field("8-bit name", b"X-B\xe4d: 1"),
    _field("NUL in the value", b"X-Bad: a\x00b"),
    _field("control character in the value", b"X-Bad: a\x01b"),
    _field("backspace in the value", b"X-Bad: a\x08b"),
    _field("escape in the value", b"X-Bad: a\x1bb"),
    _field("DEL in the value", b"X-Bad: a\x7fb"),
    _field("bare CR in the value", b"X-Bad: a\rb"),
    _field("bare CR before a field", b"X-Bad: a\rX-Smuggled: b"),
    _field("bare LF in the value", b"X-Bad: a\nX-Smuggled: b"),
    _field("CR CR LF", b"X-Bad: a\r"),
    _head("folded first line", b"GET /bad HTTP/1.1\r\n Host: router.test\r\n\r\n", 400, "bad_request", "bad_header"),
    _head("bare LF before the empty line", b"GET /bad HTTP/1.1\r\nHost: router.test\n\r\n\r\n"),
    _head("bare LF for the empty line", b"GET /bad HTTP/1.1\r\nHost: router.test\r\n\n"),
]

LENGTHS = [
    _framed("length and coding", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
    _framed("coding and length", b"Transfer-Encoding: chunked\r\nContent-Length: 5"),
    _framed("coding and length 0", b"Transfer-Encoding: chunked\r\nContent-Length: 0"),
    _framed("two lengths", b"Content-Length: 5\r\nContent-Length: 6"),
    _framed("two lengths, spelt differently", b"Content-Length: 5\r\ncontent-length: 6"),
    _framed("comma-joined lengths", b"Content-Length: 5, 6"),
    _framed("comma-joined equal lengths", b"Content-Length: 5, 5"),
    _framed("length with a plus", b"Content-Length: +5"),
    _framed("negative length", b"Content-Length: -5"),
    _framed("padded length", b"Content-Length: 005"),
    _framed("hexadecimal length", b"Content-Length: 0x5"),
    _framed("length with an exponent", b"Content-Length: 5e0"),
    _framed("length with a fraction", b"Content-Length: 5.0"),
    _framed("length with a space inside", b"Content-Length: 5 5"),
    _framed("length with an underscore", b"Content-Length: 1_0"),
    _framed("length with a semicolon", b"Content-Length: 5;"),
    _framed("length with a comma", b"Content-Length: 5,"),
    _framed("quoted length", b'Content-Length: "5"'),
    _framed("empty length", b"Content-Length:"),
    _framed("length that is no number", b"Content-Length: five"),
    _framed("8-bit digits", b"Content-Length: \xb2"),
    _framed("length above 2**64", b"Content-Length: 18446744073709551617"),
    _framed("length of 400 digits", b"Content-Length: " + b"9" * 400),
    _framed("length with a vertical tab", b"Content-Length: \x0b5", 400, "bad_framing", "bad_header", "bad_request"),
    _framed("length with space before the colon", b"Content-Length : 5", 400, "bad_request", "bad_header"),
]

CODINGS = [
    _coding("gzip", b"Transfer-Encoding: gzip", unknown=True),
    _coding("identity", b"Transfer-Encoding: identity", unknown=True),
    _coding("gzip, chunked", b"Transfer-Encoding: gzip, chunked", unknown=True),
    _coding("xchunked", b"Transfer-Encoding: xchunked", unknown=True),
    _coding("chunkedx", b"Transfer-Encoding: chunkedx", unknown=True),
    _framed("chunked twice in one", b"Transfer-Encoding: chunked, chunked", 400, "bad_framing", "bad_request"),
    _framed(
        "chunked twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "bad_framing", "bad_request"
    ),
    _coding("chunked and identity", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    _coding("identity and chunked", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", unknown=True),
    _coding("chunked, gzip", b"Transfer-Encoding: chunked, gzip"),
    _coding("empty coding", b"Transfer-Encoding:"),
    _coding("chunked with a comma", b"Transfer-Encoding: chunked,"),
    _coding("comma, chunked", b"Transfer-Encoding: ,chunked"),
    _coding("chunked with a parameter", b"Transfer-Encoding: chunked;q=1"),
    _coding("quoted chunked", b'Transfer-Encoding: "chunked"'),
    _coding("chunked after a vertical tab", b"Transfer-Encoding: \x0bchunked"),
    _coding("chunked before a form feed", b"Transfer-Encoding: chunked\x0c"),
    _coding("chunked folded", b"Transfer-Encoding:\r\n chunked"),
    _coding("coding with space before the colon", b"Transfer-Encoding : chunked"),
    _coding("8-bit coding", b"Transfer-Encoding: \xe7hunked"),
    Bad(
        "chunked in HTTP/1.0",
        b"POST /bad HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.0\r\n\r\n",
        400,
        ("bad_framing", "bad_request"),
    ),
]

LIMITS = [
    Bad("target of 16 KiB and one byte", request(b"GET", b"/" + b"t" * (16 * 1024)), 414, ("uri_too_long",)),
    Bad("target of 60 KiB", request(b"GET", b"/" + b"t" * (60 * 1024)), 414, ("uri_too_long",)),
    Bad("query above the limit", request(b"GET", b"/x?" + b"q" * (16 * 1024)), 414, ("uri_too_long",)),
    Bad("one field above 64 KiB", request(b"GET", b"/x", b"X-Big: " + b"x" * (64 * 1024)), 431, ("head_too_large",)),
    Bad(
        "fields above 64 KiB together",
        request(b"GET", b"/x", *(b"X-%d: " % n + b"x" * 1000 for n in range(70))),
        431,
        ("head_too_large",),
    ),
    Bad(
        "head without an end",
        b"GET /x HTTP/1.1\r\nHost: router.test\r\n" + b"X-Many: 1\r\n" * 8000,
        431,
        ("head_too_large",),
    ),
    Bad("unknown expectation", request(b"GET", b"/x", b"Expect: a-miracle"), 417, ("unknown_expectation",)),
    Bad(
        "known and unknown expectation",
        request(b"GET", b"/x", b"Expect: 100-continue, a-miracle"),
        417,
        ("unknown_expectation",),
    ),
    Bad("unknown method", request(b"BREW", b"/pot"), 501, ("unknown_method",)),
    Bad("long unknown method", request(b"X" * 300, b"/pot"), 501, ("unknown_method",)),
    Bad("lower-case method", request(b"get", b"/x"), 501, ("unknown_method",)),
]

BAD_HEADS = [*REQUEST_LINES, *TARGETS, *HOSTS, *FIELDS, *LENGTHS, *CODINGS, *LIMITS]

BAD_CHUNKS = {
    "size that is no number": b"zz\r\nhello\r\n0\r\n\r\n",
    "size with a minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size with a plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "only an extension": b";a=b\r\nhello\r\n0\r\n\r\n",
    "size above 2**64": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size of 200 digits": b"0" * 199 + b"5\r\nhello\r\n0\r\n\r\n",
    "size line ended by LF": b"5\nhello\r\n0\r\n\r\n",
    "size line ended by CR": b"5\rhello\r\n0\r\n\r\n",
    "extension with LF": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "extension with CR": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension with NUL": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "endless extension": b"5;" + b"a" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
    "data longer than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "data ended by LF": b"5\r\nhello\n0\r\n\r\n",
    "data without an end": b"5\r\nhello0\r\n\r\n",
    "trailer without a colon": b"5\r\nhello\r\n0\r\nbad\r\n\r\n",
    "trailer with space before the colon": b"5\r\nhello\r\n0\r\nx-bad : 1\r\n\r\n",
    "folded trailer": b"5\r\nhello\r\n0\r\nx-bad: 1\r\n 2\r\n\r\n",
    "trailer with NUL": b"5\r\nhello\r\n0\r\nx-bad: \x00\r\n\r\n",
    "trailer ended by LF": b"5\r\nhello\r\n0\r\nx-bad: 1\n\r\n\r\n",
    "endless trailers": b"5\r\nhello\r\n0\r\n" + b"x-many: 1\r\n" * 20_000 + b"\r\n",
}
"""Chunked bodies that break RFC 9112 §7.1."""
