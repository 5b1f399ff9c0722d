import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from http1.peers import Peer, connected, eventually, turns
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.proxy import crowd
from sglang_diffusion_routing.proxy import server as module

pytestmark = pytest.mark.loopback


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world(1) as one:
        yield one


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let deadlines be looked at every few milliseconds."""
    monkeypatch.setattr(module, "TICK_S", 0.01)


async def code(client: Peer) -> tuple[int, str]:
    """Read an error of the router."""
    status, _, body = await reply(client)
    return status, json.loads(body)["code"]


def values(raw: bytes, name: bytes) -> list[bytes]:
    """Give a field's values, in order, whatever its case."""
    lines = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [line.partition(b":")[2].strip() for line in lines if line.partition(b":")[0].lower() == name]


class TestRequests:
    @pytest.mark.parametrize("line", [b"TRACE /x HTTP/1.1", b"TRACE /workers HTTP/1.1", b"CONNECT w:443 HTTP/1.1"])
    async def test_connect_and_trace_are_not_allowed(self, one: World, line: bytes) -> None:
        client = await one.ask(line + b"\r\nHost: a\r\n\r\n")
        status, fields, body = await reply(client)
        assert (status, json.loads(body)["code"]) == (405, "method_not_allowed")
        assert {b"GET", b"POST", b"DELETE"} <= set(re.split(rb",\s*", fields[b"allow"]))
        assert not {b"CONNECT", b"TRACE"} & set(re.split(rb",\s*", fields[b"allow"]))
        assert one.plane.counters.refusals["method_not_allowed"] == 1

    async def test_what_follows_a_refused_connect_is_not_taken_for_a_request(self, one: World) -> None:
        client = await one.ask(b"CONNECT w:443 HTTP/1.1\r\nHost: a\r\n\r\n" + post())
        await client.read_head()
        await client.read_to_end()
        assert one.fleet.ends == []

    async def test_the_server_itself_answers_for_itself(self, one: World) -> None:
        client = await one.connect()
        for _ in range(2):
            await client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await client.read_head()
            assert head.startswith(b"HTTP/1.1 204 ")
            assert values(head, b"allow")
        await client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        assert values(await client.read_head(), b"connection") == [b"close"]
        assert await client.read_to_end() == b""

    async def test_a_preflight_reaches_a_worker(self, one: World) -> None:
        client = await one.ask(b"OPTIONS /v1/images/generations HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\n\r\n")
        peer = await one.accept()
        assert (await serve(peer, sized())).startswith(b"OPTIONS /v1/images/generations ")
        assert (await reply(client))[0] == 200

    async def test_a_request_that_has_been_here_before_is_a_loop(self, one: World) -> None:
        client = await one.ask(post())
        peer = await one.accept()
        [via] = values(await serve(peer, sized()), b"via")
        await reply(client)
        for request in (post(b"/rollout/generate", b"{}", b"Via: " + via), get(b"/workers", b"Via: 1.0 x, " + via)):
            await client.send(request)
            assert await code(client) == (508, "loop_detected")
        await one.released((0, Result.OK, 200))

    async def test_what_a_worker_must_not_see_by_any_spelling_goes_to_the_control_app(self, one: World) -> None:
        for path in (
            b"/update_weights_from_disk",
            b"/%75pdate_weights_from_disk",
            b"//x/..;y/update_weights_from_disk/",
        ):
            client = await one.ask(post(path))
            app = await one.accept_control()
            assert (await serve(app, sized())).startswith(b"POST %b HTTP/1.1\r\n" % path)
            assert (await reply(client))[0] == 200
            await app.close()
        assert one.accepted.empty()

    async def test_pipelined_requests_of_all_kinds_are_answered_in_order(self, one: World) -> None:
        client = await one.ask(post() + get(b"/health") + b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + post())
        peer = await one.accept()
        await turns(50)
        assert one.control.empty()
        await serve(peer, sized(b"1"))
        await serve(await one.accept_control(), sized(b"2"))
        await serve(peer, sized(b"4"))
        received = [await reply(client) for _ in range(4)]
        assert [(status, body) for status, _, body in received] == [(200, b"1"), (200, b"2"), (204, b""), (200, b"4")]


class TestPeers:
    async def test_the_claims_of_trusted_peers_count(self) -> None:
        for trusted, expected in ((("127.0.0.0/8",), b"9.9.9.9, 127.0.0.1"), (("10.0.0.0/8",), b"127.0.0.1")):
            async with world(1, trusted_peers=trusted) as one:
                client = await one.ask(post(b"/rollout/generate", b"{}", b"X-Forwarded-For: 9.9.9.9"))
                peer = await one.accept()
                assert values(await serve(peer, sized()), b"x-forwarded-for") == [expected]
                await reply(client)


class TestLimits:
    async def test_one_connection_too_many_is_told_so(self) -> None:
        async with world(1, max_client_connections=2) as one:
            first, second = await one.connect(), await one.connect()
            await eventually(lambda: one.plane.counters.connections_now == 2)
            third = await one.ask(post())
            status, fields, body = await reply(third)
            assert (status, json.loads(body)["code"], fields[b"connection"]) == (503, "too_many_connections", b"close")
            assert await third.read_to_end() == b""
            await third.close()
            await first.close()
            await eventually(lambda: one.plane.counters.connections_now == 1)
            fourth = await one.ask(post())
            await serve(await one.accept(), sized())
            assert (await reply(fourth))[0] == 200
            await second.close()

    async def test_far_too_many_are_cut_off_without_a_word(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(crowd, "REFUSALS_AT_ONCE", 2)
        async with world(0, max_client_connections=1) as none:
            clients = [await none.connect() for _ in range(3)]
            await eventually(lambda: none.plane.counters.connections_now == 3)
            last = await none.connect()
            assert await last.read_to_end() == b""
            for refused in clients[1:]:
                assert await code(refused) == (503, "too_many_connections")

    async def test_one_tunnel_too_many_is_told_so(self) -> None:
        upgrade = get(b"/ws", b"Upgrade: websocket", b"Connection: Upgrade")
        async with world(1, max_tunnels=1) as one:
            first = await one.ask(upgrade)
            peer = await one.accept()
            await serve(peer, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            await first.read_head()
            second = await one.ask(upgrade)
            assert await code(second) == (503, "too_many_tunnels")
            first.reset()
            await eventually(lambda: one.plane.counters.tunnels_now == 0)
            await second.send(upgrade)
            await serve(await one.accept(), sized())
            assert (await reply(second))[0] == 200

    @pytest.mark.usefixtures("fast")
    async def test_deadlines_of_clients_are_kept(self) -> None:
        async with world(1, client_head_timeout_s=0.05, client_body_timeout_s=0.05, client_idle_timeout_s=0.2) as one:
            idle, head, body = (
                await one.connect(),
                await one.ask(post()[:10]),
                await one.ask(post(b"/upload", b"x" * 9)[:-5]),
            )
            assert await code(head) == (408, "head_timeout")
            assert await code(body) == (408, "body_timeout")
            assert await idle.read_to_end() == b""
            await one.released((0, Result.ABANDONED, 0))

    @pytest.mark.usefixtures("fast")
    async def test_a_client_that_leaves_the_queue_with_a_large_upload_is_forgotten(self) -> None:
        async with world(1, cap=1) as one:
            busy = await one.ask(post())
            peer = await one.accept()
            await serve(peer)
            client = await one.connect()
            client.writer.write(post(body=bytes(2**20)))
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            await turns(50)
            client.reset()
            await eventually(lambda: one.fleet.scheduler.queued == 0)
            await peer.send(sized())
            await reply(busy)

    @pytest.mark.usefixtures("fast")
    async def test_idle_connections_to_workers_are_closed_in_time(self) -> None:
        async with world(1, idle_reuse_s=0.03) as one:
            client = await one.ask(post())
            peer = await one.accept()
            await serve(peer, sized())
            await reply(client)
            assert await peer.read_to_end() == b""

    @pytest.mark.usefixtures("fast")
    async def test_silent_tunnels_end(self) -> None:
        async with world(1, tunnel_idle_s=0.05) as one:
            client = await one.ask(get(b"/ws", b"Upgrade: websocket", b"Connection: Upgrade"))
            peer = await one.accept()
            await serve(peer, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            await client.read_head()
            assert await client.read_to_end() == b""
            await one.released((0, Result.OK, 101))


class TestEnd:
    async def busy(self, one: World) -> tuple[Peer, Peer]:
        client = await one.ask(post())
        peer = await one.accept()
        await serve(peer)
        return client, peer

    async def test_requests_under_way_are_finished_and_told_to_close(self, one: World) -> None:
        client, peer = await self.busy(one)
        idle = await one.connect()
        await eventually(lambda: one.plane.counters.connections_now == 2)
        one.plane.stop_accepting()
        assert await idle.read_to_end() == b""
        draining = asyncio.ensure_future(one.plane.drain(5.0))
        with pytest.raises(ConnectionRefusedError):
            await connected(one.plane.port)
        await peer.send(sized())
        status, fields, _ = await reply(client)
        assert (status, fields[b"connection"]) == (200, b"close")
        assert await draining
        await one.released((0, Result.OK, 200))

    async def test_a_reply_whose_head_went_out_before_holds_nothing_up(self, one: World) -> None:
        client, peer = await self.busy(one)
        await peer.send(sized(b"x" * 10)[:-5])
        assert values(await client.read_head(), b"connection") == []
        one.plane.stop_accepting()
        await peer.send(b"x" * 5)
        assert await client.read(10) == b"x" * 10
        assert await one.plane.drain(5.0)
        assert await client.read_to_end() == b""

    async def test_new_work_on_an_old_connection_is_refused(self, one: World) -> None:
        client, peer = await self.busy(one)
        late = await one.ask(get(b"/health"))
        app = await one.accept_control()
        await late.send(post())
        one.plane.stop_accepting()
        # The reply to the first of two pipelined requests is the connection's last.
        await serve(app, sized())
        assert (await reply(late))[1][b"connection"] == b"close"
        assert await late.read_to_end() == b""
        await peer.send(sized())
        assert (await reply(client))[0] == 200
        await one.released((0, Result.OK, 200))

    async def test_work_whose_head_comes_last_is_refused(self, one: World) -> None:
        client, peer = await self.busy(one)
        late = await one.ask(post()[:10])
        await eventually(lambda: one.plane.counters.connections_now == 2)
        one.plane.closing = True
        await late.send(post()[10:])
        assert await code(late) == (503, "shutting_down")
        assert await late.read_to_end() == b""
        await peer.send(sized())
        assert (await reply(client))[0] == 200

    async def test_the_grace_has_an_end(self, one: World) -> None:
        await self.busy(one)
        one.plane.stop_accepting()
        assert not await one.plane.drain(0.02)

    async def test_tunnels_are_told_to_come_back(self, one: World) -> None:
        client = await one.ask(get(b"/ws", b"Upgrade: websocket", b"Connection: Upgrade"))
        peer = await one.accept()
        await serve(peer, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await client.read_head()
        one.plane.stop_accepting()
        assert await one.plane.drain(5.0)
        assert await client.read_to_end() == b"\x88\x02\x03\xf4"

    async def test_closing_breaks_off_whatever_is_left(self) -> None:
        async with world(2, cap=1) as two:
            waiting, orphan, peer = await two.ask(post()), await two.ask(post()), await two.accept()
            await serve(peer)
            other = await two.accept()
            await serve(other)
            queued = await two.ask(post())
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            await orphan.close()
            await eventually(lambda: two.plane.counters.orphans == 1)
            await two.plane.close()
            assert two.fleet.scheduler.live_leases == 0
            assert two.fleet.scheduler.queued == 0
            for client in (waiting, queued):
                assert await client.is_cut() in {True, False}
            for worker in (peer, other):
                await worker.is_cut()
            assert two.connections() == [0, 0]

    async def test_closing_ends_the_following_of_jobs(self, one: World) -> None:
        client = await one.ask(post(b"/v1/videos"))
        await serve(await one.accept(), sized(b'{"id":"v1"}'))
        await reply(client)
        assert len(one.plane.jobs) == 1
        await one.plane.close()
        assert len(one.plane.jobs) == 0
        assert one.fleet.scheduler.live_leases == 0


async def test_connections_are_counted(one: World) -> None:
    clients = [await one.connect() for _ in range(3)]
    await eventually(lambda: one.plane.counters.connections_now == 3)
    await clients[0].close()
    await eventually(lambda: one.plane.counters.connections_now == 2)
    assert one.plane.counters.connections == 3
