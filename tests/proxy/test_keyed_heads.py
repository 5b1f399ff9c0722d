"""Tests of what workers get of the keys that clients show: none of the router's, each its own."""

from typing import Any

import pytest

from http1.peers import soon
from proxy.listeners import Silent
from proxy.world import get, post, reply, serve, sized, world
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.core.worker_keys import WorkerKeys
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import REMEMBERED_BYTES, parse_request_head
from sglang_diffusion_routing.proxy import keyed_heads
from sglang_diffusion_routing.proxy.access import Access
from sglang_diffusion_routing.proxy.keyed_heads import KeyedHeads
from sglang_diffusion_routing.proxy.keys import Keys

A, B = WorkerId("http://a:1"), WorkerId("https://a:1")
FIELDS = (b"Authorization: Bearer mine", b"X-API-Key: mine", b"Accept: */*", b"authorization: Basic b25l")


def written(access: Access, worker: WorkerId = A, *fields: bytes) -> list[bytes]:
    """Give the credential lines of a head for a worker."""
    raw = b"\r\n".join([b"POST /x HTTP/1.1", b"Host: r", *(fields or FIELDS), b"Content-Length: 2"]) + b"\r\n\r\n"
    head = parse_request_head(raw, 1024)
    lines = KeyedHeads(access).for_worker(DownstreamConnection(Silent()), head, worker, b"/x", b"r-1", b"7" * 32)
    assert b"\r\nContent-Length: 2\r\n" in lines
    assert lines.endswith(b"\r\n\r\n")
    assert lines.count(b"\r\n\r\n") == 1
    return [line for line in lines.split(b"\r\n") if line.lower().startswith((b"authorization", b"x-api-key"))]


@pytest.mark.core
def test_no_credential_of_a_client_passes_where_keys_are_set() -> None:
    for keys in (Keys(api=("mine",)), Keys(admin=("other",))):
        assert written(Access(keys)) == []


@pytest.mark.core
def test_a_worker_gets_its_own_key_and_no_other_worker_does() -> None:
    access = Access(Keys(api=("mine",)), WorkerKeys.parse([("https://a:1", "its-own")]))
    assert written(access, B) == [b"Authorization: Bearer its-own"]
    assert written(access, A) == []


@pytest.mark.core
def test_without_keys_of_the_router_only_what_the_worker_s_key_replaces_goes() -> None:
    access = Access(worker_keys=WorkerKeys.parse([("https://a:1", "its-own")]))
    assert written(access, A) == [FIELDS[0], FIELDS[1], FIELDS[3]]
    assert written(access, B) == [FIELDS[1], b"Authorization: Bearer its-own"]


@pytest.mark.core
def test_the_control_app_gets_no_key_at_all() -> None:
    access = Access(Keys(api=("mine",)), WorkerKeys.parse([("*", "its-own")]))
    assert written(access, WorkerId("control")) == []


@pytest.mark.core
def test_new_keys_of_workers_count_at_once() -> None:
    access = Access(worker_keys=WorkerKeys.parse([("*", "old")]))
    before = written(access)
    access.worker_keys = WorkerKeys.parse([("*", "new")])
    assert (before[-1], written(access)[-1]) == (b"Authorization: Bearer old", b"Authorization: Bearer new")


@pytest.mark.core
def test_heads_that_repeat_are_rewritten_once_and_long_ones_are_not_kept() -> None:
    access = Access(Keys(api=("mine",)))
    keyed_heads._remembered.cache_clear()
    for padding in (b"X: 1", b"X: 1", b"X: " + b"x" * REMEMBERED_BYTES):
        assert written(access, A, b"Authorization: Bearer mine", padding) == []
    found = keyed_heads._remembered.cache_info()
    assert (found.hits, found.currsize) == (1, 1)


@pytest.mark.core
def test_a_chunked_body_is_told_of_once() -> None:
    raw = b"POST /x HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer mine\r\nTransfer-Encoding: chunked\r\n\r\n"
    access = Access(Keys(api=("mine",)))
    connection = DownstreamConnection(Silent())
    head = parse_request_head(raw, 1024)
    lines = KeyedHeads(access).for_worker(connection, head, A, b"/x", b"r-1", b"7" * 32)
    assert lines.count(b"Transfer-Encoding: chunked\r\n") == 1
    # What the router itself reads of it is what the client has sent.
    assert head.field(b"authorization") == b"Bearer mine"


SETTINGS: dict[str, Any] = {"api_key": "data", "admin_key": "root"}
KEY = b"Authorization: Bearer data"


@pytest.mark.loopback
async def test_work_is_done_for_a_key_which_the_worker_never_sees() -> None:
    async with world(**SETTINGS) as w:
        client = await w.ask(post(b"/rollout/generate", b"{}", KEY, b"x-api-key: data", b"X-Other: 1"))
        taken = await serve(await w.accept(), sized())
        assert b"data" not in taken
        assert b"\r\nX-Other: 1\r\n" in taken
        assert (await reply(client))[0] == 200


@pytest.mark.loopback
async def test_a_request_that_is_tried_again_shows_its_keys_to_neither_worker() -> None:
    async with world(2, **SETTINGS) as w:
        client = await w.ask(post(b"/rollout/generate", b"{}", KEY))
        first = await w.accept()
        taken = await serve(first)
        await first.drop()
        second = await serve(await w.accept(), sized())
        assert b"data" not in taken + second
        assert (await reply(client))[0] == 200


@pytest.mark.loopback
async def test_nothing_happens_for_a_request_without_a_key() -> None:
    async with world(**SETTINGS) as w:
        for sent in (
            post(),
            post(b"/v1/images/generations", b"{}", b"Authorization: Bearer wrong"),
            get(b"/v1/videos/unknown"),
            get(b"/ws", b"Upgrade: websocket", b"Connection: Upgrade"),
        ):
            client = await w.ask(sent)
            status, fields, body = await reply(client)
            assert (status, b"key_" in body) == (401, True)
            assert fields[b"www-authenticate"].startswith(b"Bearer")
        # No job was looked for, no lease was taken, no connection was made.
        assert (w.jobs.located, w.fleet.ends, w.connections(), w.accepted.qsize()) == ([], [], [0], 0)


@pytest.mark.loopback
async def test_a_body_that_was_held_back_for_a_100_is_never_asked_for() -> None:
    async with world(**SETTINGS) as w:
        client = await w.ask(b"POST /generate HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        status, fields, _ = await reply(client)
        assert (status, fields[b"connection"]) == (401, b"close")
        assert await soon(client.read_to_end()) == b""


@pytest.mark.loopback
async def test_a_tunnel_opens_for_a_key_which_the_worker_never_sees() -> None:
    async with world(**SETTINGS) as w:
        client = await w.ask(get(b"/ws", KEY, b"Upgrade: websocket", b"Connection: Upgrade"))
        worker = await w.accept()
        head = await serve(
            worker, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        assert b"data" not in head
        assert b"\r\nUpgrade: websocket\r\n" in head
        assert (await client.read_head()).startswith(b"HTTP/1.1 101")
        await client.send(b"ping")
        assert await worker.read(4) == b"ping"
