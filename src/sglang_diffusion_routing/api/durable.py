"""Answer a request that may have changed something only when the change is on disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110 §9.2.1)."""


class SavedFirst:
    """Holds back the head of a reply until `flush` returns; what it could not save, its owner has logged."""

    def __init__(self, app: ASGIApp, flush: Callable[[], Awaitable[object]]) -> None:
        self._app = app
        self._flush = flush

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _SAFE:
            await self._app(scope, receive, send)
            return

        async def send_saved(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._flush()
            await send(message)

        await self._app(scope, receive, send_saved)
