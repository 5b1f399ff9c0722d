"""Tests of `OPTIONS *`."""

import pytest

from proxy.world import reply, world

pytestmark = pytest.mark.loopback

ASKED = b"OPTIONS * HTTP/1.1\r\nHost: a\r\n"


async def test_the_router_says_what_methods_there_are_without_asking_anybody() -> None:
    async with world() as w:
        client = await w.ask(ASKED + b"\r\n", ASKED + b"Connection: close\r\n\r\n")
        status, fields, _ = await reply(client)
        assert (status, fields[b"allow"]) == (204, b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH")
        assert b"connection" not in fields
        assert (await reply(client))[1][b"connection"] == b"close"
        assert await client.read_to_end() == b""
        assert w.connections() == [0]


async def test_a_body_is_read_and_dropped() -> None:
    async with world() as w:
        client = await w.ask(ASKED + b"Content-Length: 4\r\n\r\nabcd", ASKED + b"\r\n")
        assert [(await reply(client))[0] for _ in range(2)] == [204, 204]
