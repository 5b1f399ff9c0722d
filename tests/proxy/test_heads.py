import re

import pytest

from proxy.listeners import Silent
from sglang_diffusion_routing.core.weights import Loaded, Unversioned
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import LoopDetected
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead, parse_request_head
from sglang_diffusion_routing.proxy.heads import (
    HeadWriter,
    authority,
    version_field,
    with_relative_locations,
    worker_line,
)

pytestmark = pytest.mark.core


WORKER = WorkerId("http://w:8000")


def head_of(*fields: bytes, line: bytes = b"GET /x?y HTTP/1.1") -> RequestHead:
    return parse_request_head(b"\r\n".join([line, b"Host: router:8000", *fields]) + b"\r\n\r\n", 1024)


def client(peer: str = "10.1.2.3", *, trusted: bool = False) -> DownstreamConnection:
    connection = DownstreamConnection(Silent())
    connection.peer = (peer, 5555)
    connection.trusted = trusted
    return connection


@pytest.fixture
def writer() -> HeadWriter:
    return HeadWriter()


def written(
    writer: HeadWriter, head: RequestHead, connection: DownstreamConnection | None = None, **more: bool
) -> bytes:
    worker_id = WorkerId("http://worker:9")
    return writer.for_worker(connection or client(), head, worker_id, head.target, b"r-1", b"7" * 32, **more)


def values(raw: bytes, name: bytes) -> list[bytes]:
    """Give a field's values, in order, whatever its case."""
    lines = raw.split(b"\r\n")[1:]
    return [line.partition(b":")[2].strip() for line in lines if line.partition(b":")[0].lower() == name]


def test_a_whole_head_is_the_client_s_with_what_a_proxy_owes(writer: HeadWriter) -> None:
    head = head_of(
        b"x-b: 2",
        b"Accept: */*",
        b"Connection: close, x-c",
        b"X-C: 3",
        b"x-b: 1",
        b"traceparent: 00-1-2-01",
        b"X-Request-Id: mine",
        line=b"GET //x/%41?y=%20 HTTP/1.1",
    )
    assert written(writer, head) == (
        b"GET //x/%%41?y=%%20 HTTP/1.1\r\n"
        b"Host: worker:9\r\n"
        b"x-b: 2\r\n"
        b"Accept: */*\r\n"
        b"x-b: 1\r\n"
        b"traceparent: 00-1-2-01\r\n"
        b"X-Request-Id: mine\r\n"
        b"X-Forwarded-For: 10.1.2.3\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: router:8000\r\n"
        b"Via: 1.1 %b\r\n"
        b"\r\n" % writer.pseudonym
    )


def test_ids_are_made_for_a_client_that_has_none(writer: HeadWriter) -> None:
    first, second = written(writer, head_of()), written(writer, head_of())
    assert values(first, b"x-request-id") == [b"r-1"]
    traces = [*values(first, b"traceparent"), *values(second, b"traceparent")]
    assert len(traces) == len(set(traces)) == 2
    for trace in traces:
        assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace)
        assert trace.split(b"-")[2] != b"0" * 16


def test_no_trace_is_made_up_for_the_control_app(writer: HeadWriter) -> None:
    """It would log the ids of traces that nobody records."""
    raw = writer.for_worker(client(), head_of(), WorkerId("control"), b"/workers", b"r-1", b"7" * 32)
    assert values(raw, b"traceparent") == []


def test_request_ids_are_the_client_s_or_fresh(writer: HeadWriter) -> None:
    mine, trace = writer.ids(head_of(b"X-Request-Id: mine"))
    assert mine == b"mine"
    fresh = [writer.ids(head_of()) for _ in range(100)]
    assert all(request_id == trace_id for request_id, trace_id in fresh)
    assert len({trace, *(request_id for request_id, _ in fresh)}) == 101
    assert all(re.fullmatch(rb"[0-9a-f]{32}", trace_id) for trace_id in (trace, fresh[0][0]))
    assert HeadWriter().ids(head_of())[0][:16] != HeadWriter().ids(head_of())[0][:16]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ([b"Content-Length: 5"], b"Content-Length: 5"),
        ([b"Transfer-Encoding: chunked"], b"Transfer-Encoding: chunked"),
        ([b"transfer-encoding: CHUNKED"], b"Transfer-Encoding: chunked"),
    ],
)
def test_the_body_s_framing_is_told_once(writer: HeadWriter, fields: list[bytes], line: bytes) -> None:
    lines = written(writer, head_of(*fields, line=b"POST /x HTTP/1.1")).split(b"\r\n")
    framing = [line for line in lines if line.lower().startswith((b"content-length", b"transfer-encoding"))]
    assert framing == [line]


def test_a_rewritten_target_and_host_are_the_worker_s(writer: HeadWriter) -> None:
    raw = writer.for_worker(client(), head_of(), WorkerId("http://[::1]:9"), b"/v1/videos?a=b", b"r", b"7" * 32)
    assert raw.startswith(b"GET /v1/videos?a=b HTTP/1.1\r\nHost: [::1]:9\r\n")
    assert values(raw, b"host") == [b"[::1]:9"]


class TestForwarded:
    CLAIMS = (
        b"X-Forwarded-For: 1.1.1.1",
        b"X-Forwarded-For: 2.2.2.2, 3.3.3.3",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: site.example",
    )

    def test_a_stranger_s_claims_are_replaced(self, writer: HeadWriter) -> None:
        raw = written(writer, head_of(*self.CLAIMS))
        assert values(raw, b"x-forwarded-for") == [b"10.1.2.3"]
        assert values(raw, b"x-forwarded-proto") == [b"http"]
        assert values(raw, b"x-forwarded-host") == [b"router:8000"]

    def test_a_trusted_proxy_s_claims_are_kept_and_added_to(self, writer: HeadWriter) -> None:
        raw = written(writer, head_of(*self.CLAIMS), client(trusted=True))
        assert values(raw, b"x-forwarded-for") == [b"1.1.1.1, 2.2.2.2, 3.3.3.3, 10.1.2.3"]
        assert values(raw, b"x-forwarded-proto") == [b"https"]
        assert values(raw, b"x-forwarded-host") == [b"site.example"]

    def test_a_trusted_proxy_may_claim_nothing(self, writer: HeadWriter) -> None:
        raw = written(writer, head_of(), client(trusted=True))
        assert values(raw, b"x-forwarded-for") == [b"10.1.2.3"]
        assert values(raw, b"x-forwarded-proto") == [b"http"]
        assert values(raw, b"x-forwarded-host") == [b"router:8000"]

    def test_each_request_of_a_connection_stands_for_itself(self, writer: HeadWriter) -> None:
        trusted = client(trusted=True)
        for fields, expected in (
            (self.CLAIMS, b"1.1.1.1, 2.2.2.2, 3.3.3.3, 10.1.2.3"),
            ((), b"10.1.2.3"),
            ((b"X-Forwarded-For: 9.9.9.9",), b"9.9.9.9, 10.1.2.3"),
        ):
            assert values(written(writer, head_of(*fields), trusted), b"x-forwarded-for") == [expected]
        stranger = client()
        for fields in (self.CLAIMS, (), self.CLAIMS):
            assert values(written(writer, head_of(*fields), stranger), b"x-forwarded-for") == [b"10.1.2.3"]


class TestVia:
    def test_it_names_every_hop_and_the_client_s_version(self, writer: HeadWriter) -> None:
        raw = written(writer, head_of(b"Via: 1.0 one", b"via: 1.1 two (x)"))
        assert values(raw, b"via") == [b"1.0 one, 1.1 two (x), 1.1 " + writer.pseudonym]
        old = head_of(line=b"GET / HTTP/1.0")
        assert values(written(writer, old), b"via") == [b"1.0 " + writer.pseudonym]

    def test_our_own_is_a_loop(self, writer: HeadWriter) -> None:
        own = values(written(writer, head_of(b"Via: 1.1 other")), b"via")[0]
        with pytest.raises(LoopDetected):
            writer.check_loop(head_of(b"Via: " + own))
        with pytest.raises(LoopDetected):
            writer.check_loop(head_of(b"Via: 1.1 a", b"Via: 1.1 b, " + own))

    def test_another_router_is_none(self, writer: HeadWriter) -> None:
        other = HeadWriter()
        assert other.pseudonym != writer.pseudonym
        writer.check_loop(head_of(b"Via: 1.1 " + other.pseudonym))
        writer.check_loop(head_of())


class TestUpgrade:
    FIELDS = (b"Upgrade: websocket", b"Connection: keep-alive, Upgrade", b"Sec-WebSocket-Key: k")

    def test_it_is_asked_for_where_it_may_be(self, writer: HeadWriter) -> None:
        raw = written(writer, head_of(*self.FIELDS), may_upgrade=True)
        assert values(raw, b"upgrade") == [b"websocket"]
        assert values(raw, b"connection") == [b"Upgrade"]
        assert values(raw, b"sec-websocket-key") == [b"k"]

    def test_it_is_left_out_elsewhere(self, writer: HeadWriter) -> None:
        raw = written(writer, head_of(*self.FIELDS))
        assert values(raw, b"upgrade") == []
        assert values(raw, b"connection") == []

    def test_it_is_not_made_up(self, writer: HeadWriter) -> None:
        raw = written(writer, head_of(), may_upgrade=True)
        assert values(raw, b"upgrade") == values(raw, b"connection") == []


@pytest.mark.parametrize(
    ("worker_id", "host"),
    [("http://10.0.0.1:8000", b"10.0.0.1:8000"), ("http://w", b"w"), ("https://[::1]:9", b"[::1]:9")],
)
def test_a_worker_s_host_field_is_its_authority(worker_id: str, host: bytes) -> None:
    assert authority(WorkerId(worker_id)) == host
    assert worker_line(WorkerId(worker_id)) == b"x-sglang-router-worker: %b\r\n" % worker_id.encode()


@pytest.mark.parametrize(
    ("loaded", "field"),
    [
        (Unversioned.SUSPECT, b"unknown"),
        (Unversioned.BASE, b"0"),
        ("0", b"0"),
        ("step 7", b"step 7"),
        ("a\r\nX: 1", b"a??X: 1"),
        ("\u00e9", b"\xe9"),
        ("\u6f22\u5b57", b"??"),
        ("a\x00\x7fb", b"a??b"),
    ],
)
def test_any_weight_version_fits_into_a_field(loaded: Loaded, field: bytes) -> None:
    assert version_field(loaded) == field


@pytest.mark.parametrize(
    ("line", "relative"),
    [
        (b"Location: http://w:8000/x?y#z\r\n", b"Location: /x?y#z\r\n"),
        (b"location: HTTP://W:8000/X\r\n", b"location: /X\r\n"),
        (b"Content-Location:http://w:8000/x\r\n", b"Content-Location: /x\r\n"),
        (b"Location: http://w:8000\r\n", b"Location: /\r\n"),
        (b"Location: http://w:8000?x\r\n", b"Location: /?x\r\n"),
        (b"Location: http://w:80001/x\r\n", b"Location: http://w:80001/x\r\n"),
        (b"Location: http://w:8000.evil.example/x\r\n", b"Location: http://w:8000.evil.example/x\r\n"),
        (b"Location: http://w:8000@evil.example/x\r\n", b"Location: http://w:8000@evil.example/x\r\n"),
        (b"Location: https://w:8000/x\r\n", b"Location: https://w:8000/x\r\n"),
        (b"Location: http://other/x\r\n", b"Location: http://other/x\r\n"),
        (b"Location: /x\r\n", b"Location: /x\r\n"),
        (b"Location: x\r\n", b"Location: x\r\n"),
        (b"X-Location: http://w:8000/x\r\n", b"X-Location: http://w:8000/x\r\n"),
    ],
)
def test_a_location_that_names_the_worker_becomes_relative(line: bytes, relative: bytes) -> None:
    assert with_relative_locations([b"A: 1\r\n", line], WORKER) == b"A: 1\r\n" + relative


@pytest.mark.parametrize("path", [b"//evil.example/x", b"///evil.example", b"/\\evil.example"])
def test_a_relative_location_never_names_another_host(path: bytes) -> None:
    """`//host/x` and, for browsers, `/\\host/x` are references to that host (RFC 3986 §4.2)."""
    line = with_relative_locations([b"Location: http://w:8000%b\r\n" % path], WORKER)
    value = line.removeprefix(b"Location: ").removesuffix(b"\r\n")
    assert value == b"http://w:8000" + path or (value.endswith(path) and not value.startswith((b"//", b"/\\")))
