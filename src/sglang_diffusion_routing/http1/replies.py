"""Write reply heads, and the router's own error replies."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

from sglang_diffusion_routing.errors import RouterError

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {499: b"Client Closed Request"}


def error_reply(error: RouterError, *, request_id: bytes, close: bool, to_head: bool) -> bytes:
    """Give the whole reply for an error of the router; to_head: without the body, whose length is still told."""
    body = error.to_wire()
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (error.http_status, _REASONS.get(error.http_status, b"")),
        b"Date: %b\r\n" % formatdate(time.time(), usegmt=True).encode(),
        b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body),
    ]
    if error.retry_after_s is not None:
        lines.append(b"Retry-After: %d\r\n" % error.retry_after_s)
    if request_id:
        lines.append(b"X-Request-Id: %b\r\n" % request_id)
    lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in error.headers]
    if close:
        lines.append(b"Connection: close\r\n")
    lines.append(b"\r\n")
    if not to_head:
        lines.append(body)
    return b"".join(lines)


OPTIONS_ASTERISK_REPLY = b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n%b\r\n"
"""Reply to `OPTIONS *`, which asks about the server as a whole (RFC 9110 §9.3.7); %b: further header lines."""
