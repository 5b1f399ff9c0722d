"""Requests to an ASGI application in this process, and the plain requests that its parts take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.types import Message


def request_of(
    method: str = "POST",
    path: str = "/x",
    *,
    query: bytes = b"",
    body: Iterable[bytes] = (),
    headers: Iterable[tuple[bytes, bytes]] = (),
    **state: Any,
) -> Request:
    """Build a request whose body comes in these pieces; `state` is put on its application."""
    pieces = list(body)

    async def receive() -> Message:
        piece = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    app = type("App", (), {"state": type("State", (), state)()})()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("latin-1"),
        "query_string": query,
        "headers": list(headers),
        "app": app,
        "scheme": "http",
        "server": ("router", 80),
    }
    return Request(scope, receive)
