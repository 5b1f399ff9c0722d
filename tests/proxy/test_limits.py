"""Tests of what bounds a client."""

import pytest

from http1.peers import Peer
from proxy.world import reply, serve, sized, world
from sglang_diffusion_routing.proxy.limits import limits_of
from sglang_diffusion_routing.settings import Settings


@pytest.mark.core
def test_each_limit_is_that_of_its_setting() -> None:
    settings = Settings()
    limits = limits_of(settings)
    names = [name for name in dir(limits) if not name.startswith("_")]
    assert len(names) > 5
    assert {name: getattr(limits, name) for name in names} == {name: getattr(settings, name) for name in names}


def head_of(size: int) -> bytes:
    """Give a request's head of this size, in as many fields as fit."""
    start, end = b"GET /stats HTTP/1.1\r\nHost: a\r\n", b"\r\n"
    room = size - len(start) - len(end)
    fields = b"a:\r\n" * (room // 4)
    return start + fields[: len(fields) - 4] + b"a:" + b"x" * (room - len(fields)) + b"\r\n" + end


@pytest.mark.loopback
class TestOverSockets:
    async def test_fields_are_counted_by_their_bytes(self) -> None:
        async with world(1, max_head_bytes=64 * 1024) as one:
            fits = head_of(64 * 1024)
            assert len(fits) == 64 * 1024
            client = await one.ask(fits)
            seen = await serve(await one.accept(), sized())
            assert seen.count(b"\r\na:") == fits.count(b"\r\na:") > 16_000
            assert (await reply(client))[0] == 200
            refused = await one.ask(head_of(64 * 1024 + 1))
            assert (await reply(refused))[0] == 431

    async def test_an_upload_that_its_worker_does_not_read_is_held_back(self) -> None:
        async with world(1) as one:
            client = await one.ask(b"POST /rollout/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 64000000\r\n\r\n")
            assert await held_back(client) > 40_000_000
            await one.accept()
            client.reset()


async def held_back(client: Peer) -> int:
    """Send 64 MB and give what stays with the client."""
    client.writer.write(bytes(64_000_000))
    return await client.held_back()
