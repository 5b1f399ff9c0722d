"""Have each change of the fleet written down: who asked, for what, and how it ended."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_diffusion_routing.proxy.access import Need, need_of
from sglang_diffusion_routing.proxy.routes import route
from sglang_diffusion_routing.runtime.audit import Audit, Fact

PATH_MAX_CHARS = 512
VALUE_MAX_CHARS = 128
_NO_REPLY = 0
_FACTS = {b"x-sglang-router-peer": "peer", b"x-forwarded-for": "forwarded_for", b"x-sglang-router-key": "key"}
"""What the data plane says of the client; none of it can come from the client itself."""


class Audited:
    """Writes a record when a request that changes something has been answered, or has ended without an answer.

    The path says which workers are meant; queries and bodies, which may hold more than that, are not written.
    """

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _changes(scope):
            await self._app(scope, receive, send)
            return
        status, began_s = _NO_REPLY, time.monotonic()

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            facts = _facts(scope)
            self._audit.changed({**facts, "status": status, "took_s": round(time.monotonic() - began_s, 3)})


def _changes(scope: Scope) -> bool:
    method, path = scope["method"].encode(), scope["raw_path"]
    return need_of(method, path, route(method, path, scope["query_string"] or None)) is Need.CHANGE


def _facts(scope: Scope) -> dict[str, Fact]:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    facts: dict[str, Fact] = {"method": scope["method"], "path": scope["raw_path"].decode("latin-1")[:PATH_MAX_CHARS]}
    for name, fact in ((b"x-request-id", "request_id"), *_FACTS.items()):
        facts[fact] = headers.get(name, b"").decode("latin-1")[:VALUE_MAX_CHARS]
    return facts
