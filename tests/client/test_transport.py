"""Tests of how operations are carried out, by the blocking transport."""

import http.server
import threading
from collections.abc import Iterator
from io import BytesIO

import pytest

from sglang_diffusion_routing.client.errors import Unreachable
from sglang_diffusion_routing.client.exchange import Answer, Fetch, Operation, Rest, Send
from sglang_diffusion_routing.client.settings import Access
from sglang_diffusion_routing.client.transport import Transport

pytestmark = pytest.mark.loopback


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /whole, /broken and /refused."""

    def do_GET(self) -> None:
        if self.path == "/refused":
            self.send_response(404)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"no")
            return
        self.send_response(200)
        self.send_header("content-length", "10")
        self.send_header("x-key", self.headers.get("authorization", ""))
        self.end_headers()
        self.wfile.write(b"0123456789" if self.path == "/whole" else b"0123")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(path: str) -> Operation[Answer]:
    return (yield Send("GET", path))


def fetch(path: str, sink: BytesIO, counts: list[int]) -> Operation[Answer]:
    return (yield Fetch(Send("GET", path), lambda _status, _headers: sink, counts.append))


@pytest.fixture
def transport(url: str) -> Iterator[Transport]:
    transport = Transport(Access(url, api_key="data", admin_key="root"), None)
    yield transport
    transport.close()


def test_an_answer_is_whole(transport: Transport) -> None:
    assert transport.run(get("/whole")).body == b"0123456789"
    assert transport.run(get("/refused")).status == 404


def test_a_reply_that_breaks_off_is_no_answer(transport: Transport) -> None:
    with pytest.raises(Unreachable, match="GET /broken"):
        transport.run(get("/broken"))


def test_control_takes_the_other_key(transport: Transport) -> None:
    assert transport.run(get("/whole")).headers["x-key"] == "Bearer data"
    assert transport.run(get("/whole"), control=True).headers["x-key"] == "Bearer root"


def test_what_is_fetched_is_written_as_it_comes(transport: Transport) -> None:
    sink, counts = BytesIO(), list[int]()

    assert transport.run(fetch("/whole", sink, counts)).body == b""
    assert (sink.getvalue(), counts[-1]) == (b"0123456789", 10)
    assert transport.run(fetch("/refused", sink, counts)).body == b"no"
    with pytest.raises(Unreachable):
        transport.run(fetch("/broken", sink, counts))
    assert sink.getvalue() == b"01234567890123"


def test_an_operation_may_go_on_after_a_broken_connection(transport: Transport) -> None:
    def twice() -> Operation[bytes]:
        try:
            yield Send("GET", "/broken")
        except Unreachable:
            yield Rest(0.0)
        return (yield Send("GET", "/whole")).body

    assert transport.run(twice()) == b"0123456789"


def test_an_operation_is_closed_whatever_ends_it(transport: Transport) -> None:
    closed = threading.Event()

    def failing() -> Operation[None]:
        try:
            yield Fetch(Send("GET", "/whole"), lambda _status, _headers: 1 / 0, lambda _count: None)  # type: ignore[arg-type,return-value]
        finally:
            closed.set()

    with pytest.raises(ZeroDivisionError):
        transport.run(failing())
    assert closed.is_set()
