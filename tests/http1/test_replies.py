import json
from email.utils import parsedate_to_datetime

import pytest

from sglang_diffusion_routing.errors import (
    Aborted,
    BadRequest,
    NoRoutableWorker,
    RouterError,
    UnknownCoding,
    UnknownJob,
)
from sglang_diffusion_routing.http1.replies import OPTIONS_ASTERISK_REPLY, error_reply

pytestmark = pytest.mark.core


class Busy(RouterError):
    code = "busy"
    http_status = 429


def without_date(raw: bytes) -> tuple[list[bytes], bytes]:
    """Give the head's lines but for the date, which must be a valid one, and the body."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    dates = [line for line in lines if line.startswith(b"Date: ")]
    assert len(dates) == 1
    assert parsedate_to_datetime(dates[0].removeprefix(b"Date: ").decode()).tzinfo is not None
    return [line for line in lines if line not in dates], body


def test_an_error_is_json_with_its_length() -> None:
    lines, body = without_date(error_reply(BadRequest("no"), request_id=b"", close=False, to_head=False))
    assert json.loads(body) == {"error": "no", "code": "bad_request"}
    assert lines == [
        b"HTTP/1.1 400 Bad Request",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
    ]


def test_it_says_everything_that_the_error_knows() -> None:
    error = Busy("the queue is full", retry_after_s=3, headers=(("Allow", "GET"),), queued=7)
    lines, body = without_date(error_reply(error, request_id=b"r-1", close=True, to_head=False))
    assert json.loads(body) == {"error": "the queue is full", "code": "busy", "queued": 7}
    assert lines == [
        b"HTTP/1.1 429 Too Many Requests",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Retry-After: 3",
        b"X-Request-Id: r-1",
        b"Allow: GET",
        b"Connection: close",
    ]


def test_head_gets_the_length_and_no_body() -> None:
    error = NoRoutableWorker({"sleeping": 2})
    lines, body = without_date(error_reply(error, request_id=b"", close=False, to_head=True))
    assert body == b""
    assert b"Content-Length: %d" % len(error.to_wire()) in lines


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Aborted(), b"HTTP/1.1 499 Client Closed Request"),
        (UnknownCoding("x"), b"HTTP/1.1 501 Not Implemented"),
        (NoRoutableWorker({}), b"HTTP/1.1 503 Service Unavailable"),
    ],
)
def test_the_status_has_its_reason(error: RouterError, line: bytes) -> None:
    assert error_reply(error, request_id=b"", close=False, to_head=False).startswith(line + b"\r\n")


def test_what_a_client_sent_cannot_break_out_of_the_body() -> None:
    raw = error_reply(UnknownJob('a"\r\nX: 1\r\n\r\n\u00e9'), request_id=b"", close=False, to_head=False)
    lines, body = without_date(raw)
    assert json.loads(body)["job_id"] == 'a"\r\nX: 1\r\n\r\n\u00e9'
    assert not any(line.startswith(b"X:") for line in lines)


def test_options_of_the_server_itself_has_no_body_and_says_what_is_allowed() -> None:
    assert OPTIONS_ASTERISK_REPLY % b"Connection: close\r\n" == (
        b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\nConnection: close\r\n\r\n"
    )
