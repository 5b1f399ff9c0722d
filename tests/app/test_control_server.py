import asyncio
import os
import stat
import tempfile
from pathlib import Path

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from sglang_diffusion_routing.app.control_server import ControlServer


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(b"got " + body)(scope, receive, send)


async def ask(path: str) -> httpx2.Response:
    transport = httpx2.AsyncHTTPTransport(uds=path)
    async with httpx2.AsyncClient(transport=transport, base_url="http://control") as client:
        return await client.post("/x", content=b"this")


async def test_it_serves_behind_a_socket_in_a_private_directory_that_goes_with_it() -> None:
    server = ControlServer()
    await server.start(echo)
    try:
        directory = Path(server.path).parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        response = await ask(server.path)
        assert (response.text, "server" in response.headers, len(response.headers.get_list("date"))) == (
            "got this",
            False,
            1,
        )
    finally:
        await server.stop()
    assert not directory.exists()
    await server.stop()


async def test_a_request_under_way_is_answered_before_the_end() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        reached.set()
        await go_on.wait()
        await PlainTextResponse("late")(scope, receive, send)

    server = ControlServer()
    await server.start(slow)
    asked = asyncio.ensure_future(ask(server.path))
    await reached.wait()
    stopping = asyncio.ensure_future(server.stop())
    await asyncio.sleep(0)
    go_on.set()
    assert (await asked).text == "late"
    await stopping


async def test_a_server_that_never_started_leaves_no_directory() -> None:
    server = ControlServer()
    await server.stop()
    assert not Path(server.path).parent.exists()


async def test_a_long_temporary_directory_does_not_keep_it_from_listening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    server = ControlServer()
    await server.start(echo)
    assert (await ask(server.path)).status_code == 200
    await server.stop()
    assert list(deep.iterdir()) == []


async def test_a_path_that_cannot_be_listened_on_is_an_error() -> None:
    server = ControlServer()
    os.mkdir(server.path)  # noqa: PTH102 - a moment of blocking harms nobody here
    with pytest.raises(OSError, match=r"control\.sock"):
        await server.start(echo)
    await server.stop()
