import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, Failure, WorkerApi
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.http1.connect import Connector
from support.connecting import Resolving
from support.raw_worker import answering, reply, serving


@pytest.fixture
async def api() -> AsyncIterator[WorkerApi]:
    async with WorkerApi(Connector(), connect_timeout_s=2.0) as api:
        yield api


GET = Call("GET", "/x?a=%2F&a=b", 5.0)


async def test_a_200_has_succeeded(api: WorkerApi) -> None:
    body = b'{"success":true,"sleeping":true,"message":"already sleeping"}'
    async with serving(answering(reply(200, body))) as url:
        assert await api.release_memory(url, 5.0) == Answer(Ended.SUCCEEDED, 200, json.loads(body))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"success":false,"message":"model_path is required"}'),
        (422, b'{"detail":[{"type":"missing"}]}'),
        (500, b'{"success":false,"message":"Server is sleeping"}'),
        (307, b"{}"),
        (200, b'{"success":false,"message":"no"}'),
    ],
)
async def test_a_no_is_a_refusal_even_inside_a_200(api: WorkerApi, status: int, body: bytes) -> None:
    async with serving(answering(reply(status, body))) as url:
        assert await api.send(url, GET) == Answer(Ended.REFUSED, status, json.loads(body))


async def test_text_comes_back_raw(api: WorkerApi) -> None:
    async with serving(answering(reply(500, b"Internal Server Error", "text/plain"))) as url:
        answer = await api.send(url, GET)
    assert (answer.ended, answer.body, answer.message) == (
        Ended.REFUSED,
        {"raw": "Internal Server Error"},
        "status 500",
    )


async def test_a_refused_connection_is_lost_and_says_so(api: WorkerApi) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = WorkerUrl("http", "127.0.0.1", closed.getsockname()[1])
        assert await api.send(url, GET) == Answer(
            Ended.LOST, 502, {"error": "cannot connect: connection refused"}, failure=Failure.UNREACHABLE
        )


async def test_a_refused_address_is_never_connected_to() -> None:
    nowhere = Resolving(why="its address 169.254.169.254 is refused")
    async with WorkerApi(nowhere, connect_timeout_s=2.0) as api:
        answer = await api.send(WorkerUrl("http", "innocent.example", 80), GET)
    assert (answer.ended, answer.failure, answer.message) == (
        Ended.LOST,
        Failure.UNREACHABLE,
        "cannot connect to http://innocent.example: its address 169.254.169.254 is refused",
    )


async def test_the_next_address_is_tried_when_the_first_refuses() -> None:
    twice = Resolving("127.0.0.2", "127.0.0.1")
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(reply(200, b"{}"), seen)) as url, WorkerApi(twice, connect_timeout_s=2.0) as api:
        named = WorkerUrl("http", "worker.example", url.port)
        answer = await api.send(named, Call("POST", "/y", 5.0, content=b"body"))
    assert answer.ended is Ended.SUCCEEDED
    assert [body for _, body in seen] == [b"body"]
    assert f"host: worker.example:{url.port}\r\n".encode() in seen[0][0].lower()


async def test_path_and_query_reach_the_worker_byte_for_byte(api: WorkerApi) -> None:
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(reply(200, b"{}"), seen)) as url:
        await api.send(url, Call("GET", "/a%2Fb/%7Ec?x=%20+&y=[1]", 5.0))
    assert seen[0][0].startswith(b"GET /a%2Fb/%7Ec?x=%20+&y=[1] HTTP/1.1\r\n")


async def test_silence_is_lost_when_its_time_is_up(api: WorkerApi) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as url:
        answer = await api.send(url, Call("GET", "/", 0.05))
    assert answer == Answer(Ended.LOST, 502, {"error": "no answer within 0.05 s"}, failure=Failure.TIMED_OUT)


async def test_a_reply_that_trickles_does_not_outlive_the_limit(api: WorkerApi) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(trickle) as url:
        answer = await api.send(url, Call("GET", "/", 0.2))
    assert (answer.ended, answer.failure) == (Ended.LOST, Failure.TIMED_OUT)


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", b"junk\r\n\r\n", b"HTTP/1.1 200 OK\r\nx y\r\n\r\n"]
)
async def test_a_broken_reply_is_lost(api: WorkerApi, raw: bytes) -> None:
    async with serving(answering(raw)) as url:
        answer = await api.send(url, GET)
    assert (answer.ended, answer.status_code, answer.failure) == (Ended.LOST, 502, Failure.BROKEN)


async def test_a_reply_above_the_bound_is_lost(api: WorkerApi) -> None:
    async with serving(answering(reply(200, b'"' + b"x" * 2000 + b'"'))) as url:
        answer = await api.send(url, Call("GET", "/", 5.0, max_reply_bytes=1000))
    assert answer == Answer(
        Ended.LOST, 502, {"error": "the reply is longer than 1000 bytes"}, failure=Failure.OVERSIZED
    )


async def test_every_call_has_its_own_connection_and_no_cookies(api: WorkerApi) -> None:
    seen: list[tuple[bytes, bytes]] = []
    raw = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 2\r\n\r\n{}"
    async with serving(answering(raw, seen)) as url:
        await api.send(url, GET)
        await api.send(url, GET)
    heads = [head.lower() for head, _ in seen]
    assert [b"connection: close" in head for head in heads] == [True, True]
    assert [b"cookie" in head for head in heads] == [False, False]


async def test_a_proxy_in_the_environment_is_not_used(api: WorkerApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")

    async with serving(answering(reply(200, b"{}"))) as url, WorkerApi(Connector(), connect_timeout_s=2.0) as fresh:
        assert (await fresh.send(url, GET)).ended is Ended.SUCCEEDED


async def test_checksums_are_asked_with_an_empty_object(api: WorkerApi) -> None:
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(reply(200, b'{"transformer":"2d","vae":"da"}'), seen)) as url:
        assert await api.checksums(url, 5.0) == {"transformer": "2d", "vae": "da"}
    assert seen[0][1] == b"{}"


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"a":1}', b'{"success":false}'])
async def test_a_reply_without_checksums_is_none(api: WorkerApi, body: bytes) -> None:
    async with serving(answering(reply(200, body))) as url:
        assert await api.checksums(url, 5.0) is None


async def test_a_connection_that_is_reset_as_it_is_made_is_lost(
    api: WorkerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reset(*_: object, **__: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'getpeername'")

    monkeypatch.setattr(api._client, "send", reset)
    answer = await api.send(WorkerUrl("http", "127.0.0.1", 1), Call("GET", "/v1/models", 5.0))
    assert (answer.ended, answer.failure) == (Ended.LOST, Failure.BROKEN)
