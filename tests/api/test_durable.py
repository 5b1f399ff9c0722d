"""Replies wait for the disk when the request may have changed something."""

import pytest
from starlette.types import Message, Receive, Scope, Send

from sglang_diffusion_routing.api.durable import SavedFirst

pytestmark = pytest.mark.core


async def order_of(method: str, kind: str = "http") -> list[str]:
    """Give what happens, in turn, for a reply in two parts."""
    happened: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        happened.append("work")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    async def flush() -> bool:
        happened.append("flush")
        return False

    async def send(message: Message) -> None:
        happened.append(message["type"])

    async def receive() -> Message:
        raise AssertionError("nobody reads the body")

    await SavedFirst(app, flush)({"type": kind, "method": method}, receive, send)
    return happened


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_the_head_of_a_reply_waits_once_whether_or_not_it_could_be_saved(method: str) -> None:
    parts = ["http.response.start", "http.response.body", "http.response.body"]
    assert await order_of(method) == ["work", "flush", *parts]


@pytest.mark.parametrize(("method", "kind"), [("GET", "http"), ("HEAD", "http"), ("OPTIONS", "http"), ("", "lifespan")])
async def test_what_changes_nothing_does_not_wait(method: str, kind: str) -> None:
    assert "flush" not in await order_of(method, kind)
