"""A control route is served however its path is spelt."""

import pytest
from starlette.types import Message, Receive, Scope, Send

from sglang_diffusion_routing.api.spelling import AnySpelling

pytestmark = pytest.mark.core


async def seen_paths(raw_path: bytes) -> tuple[str, bytes]:
    seen: list[tuple[str, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["path"], scope["raw_path"]))

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        raise AssertionError("nothing is sent")

    scope = {"type": "http", "path": raw_path.decode(), "raw_path": raw_path}
    await AnySpelling(app)(scope, receive, send)
    return seen[0]


@pytest.mark.parametrize(
    "spelling",
    [
        b"/workers",
        b"//workers",
        b"/./workers",
        b"/x/../workers",
        b"/%77orkers",
        b"/workers/",
        b"/workers;a=b",
        b"\\workers",
    ],
)
async def test_every_spelling_of_a_control_path_becomes_its_normal_form(spelling: bytes) -> None:
    assert await seen_paths(spelling) == ("/workers", b"/workers")


async def test_a_workers_url_keeps_its_slashes_in_the_raw_path() -> None:
    path, raw_path = await seen_paths(b"/workers/http://127.0.0.1:80")
    assert path == "/workers/http:/127.0.0.1:80"
    assert raw_path == b"/workers/http://127.0.0.1:80"


async def test_a_path_for_workers_stays_as_it_came() -> None:
    assert await seen_paths(b"//server_info/.") == ("//server_info/.", b"//server_info/.")
