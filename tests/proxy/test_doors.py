"""Tests of the two listeners, over real sockets."""

import json

import pytest

from http1.peers import Peer, connected
from proxy.world import World, get, post, reply, serve, sized, world

pytestmark = pytest.mark.loopback


async def at_control(w: World, *parts: bytes) -> Peer:
    assert w.plane.admin_port is not None
    client = await connected(w.plane.admin_port)
    w.clients.append(client)
    await client.send(*parts)
    return client


async def test_work_goes_in_at_one_listener_and_control_at_the_other() -> None:
    async with world(admin_port=0) as w:
        assert w.plane.admin_port not in {None, w.plane.port}
        client = await w.ask(post())
        await serve(await w.accept(), sized())
        assert (await reply(client))[0] == 200
        client = await at_control(w, get(b"/workers"))
        await serve(await w.accept_control(), sized(b"[]"))
        assert (await reply(client))[2] == b"[]"


async def test_neither_listener_does_the_other_s_part() -> None:
    async with world(admin_port=0) as w:
        refused = [
            await w.ask(get(b"/workers")),
            await at_control(w, post()),
            await at_control(w, get(b"/v1/videos/x")),
        ]
        told = [await reply(client) for client in refused]
        assert [status for status, _, _ in told] == [403, 403, 403]
        assert [body.split(b'"')[7] for _, _, body in told] == [
            b"control_elsewhere",
            b"work_elsewhere",
            b"work_elsewhere",
        ]
        assert (w.connections(), w.control.qsize(), w.jobs.located) == ([0], 0, [])


async def test_the_control_listener_ends_with_the_router() -> None:
    async with world(admin_port=0) as w:
        client = await at_control(w)
        w.plane.stop_accepting()
        assert await client.read_to_end() == b""
        with pytest.raises(OSError, match=r"."):
            await at_control(w)


async def test_a_connection_goes_on_after_a_refusal_without_a_body() -> None:
    async with world(api_key="k") as w:
        client = await w.ask(get(b"/x"))
        assert (await reply(client))[0] == 401
        await client.send(get(b"/x", b"x-api-key: k"))
        await serve(await w.accept(), sized())
        assert (await reply(client))[0] == 200


async def test_the_body_of_a_refused_request_is_not_taken_for_the_next_one() -> None:
    async with world(api_key="k") as w:
        smuggled = get(b"/y", b"x-api-key: k")
        client = await w.ask(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n", smuggled)
        status, fields, _ = await reply(client)
        assert (status, fields[b"connection"]) == (401, b"close")
        assert w.connections() == [0]


async def test_each_request_of_a_connection_needs_its_key() -> None:
    async with world(api_key="k") as w:
        client = await w.ask(get(b"/x", b"x-api-key: k"), get(b"/x"))
        await serve(await w.accept(), sized())
        assert [(await reply(client))[0], (await reply(client))[0]] == [200, 401]


async def test_what_is_about_nothing_needs_no_key() -> None:
    async with world(api_key="k") as w:
        asked = (b"OPTIONS *", b"TRACE /x", b"CONNECT a:1")
        found = [(await reply(await w.ask(line + b" HTTP/1.1\r\nHost: a\r\n\r\n")))[0] for line in asked]
        assert found == [204, 405, 405]
        assert w.connections() == [0]


class TestBodies:
    """`--max-body-bytes`."""

    async def test_one_that_says_that_it_is_too_long_is_refused_at_once(self) -> None:
        async with world(max_body_bytes=10) as w:
            client = await w.ask(b"POST /rollout/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
            status, fields, body = await reply(client)
            assert (status, json.loads(body)) == (
                413,
                {"error": "the body is longer than 10 bytes", "code": "body_too_large", "limit_bytes": 10},
            )
            assert fields[b"connection"] == b"close"
            assert w.connections() == [0]

    async def test_one_of_just_that_length_passes(self) -> None:
        async with world(max_body_bytes=10) as w:
            client = await w.ask(post(body=b"0123456789"))
            assert (await serve(await w.accept(), sized())).endswith(b"0123456789")
            assert (await reply(client))[0] == 200

    async def test_chunks_are_counted_as_they_come(self) -> None:
        async with world(max_body_bytes=200_000) as w:
            head = b"POST /rollout/generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            client = await w.ask(head + b"249f0\r\n" + b"x" * 150_000 + b"\r\n")
            worker = await w.accept()
            await worker.read_head()
            await client.send(b"c351\r\n")
            status, _, body = await reply(client)
            assert (status, json.loads(body)["code"]) == (413, "body_too_large")
            # Half a request is none: the worker sees it broken off.
            await worker.is_cut()

    async def test_chunks_that_are_too_many_from_the_start_reach_nobody(self) -> None:
        async with world(max_body_bytes=10) as w:
            client = await w.ask(
                b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n"
            )
            assert (await reply(client))[0] == 413
            assert w.connections() == [0]

    async def test_a_client_that_asks_first_is_refused_before_it_sends(self) -> None:
        async with world(max_body_bytes=10) as w:
            client = await w.ask(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n")
            assert (await reply(client))[0] == 413

    async def test_control_has_limits_of_its_own(self) -> None:
        async with world(max_body_bytes=10) as w:
            client = await w.ask(post(b"/update_weights_from_tensor", b"0123456789a"))
            await serve(await w.accept_control(), sized(b"{}"))
            assert (await reply(client))[0] == 200

    async def test_who_has_no_key_does_not_learn_the_limit(self) -> None:
        async with world(max_body_bytes=10, api_key="k") as w:
            client = await w.ask(post(body=b"0123456789a"))
            assert (await reply(client))[0] == 401
