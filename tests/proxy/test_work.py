import asyncio
from collections.abc import AsyncIterator

import pytest

from http1.peers import Peer, eventually, turns
from proxy.steps import SERVER_ERROR, UNAVAILABLE, code, started
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.core.limits import QueueLimits
from sglang_diffusion_routing.core.work import JobStatus, Result
from sglang_diffusion_routing.errors import Aborted
from sglang_diffusion_routing.proxy.calls import ControlCall, JobCall
from sglang_diffusion_routing.proxy.work import Work

pytestmark = pytest.mark.loopback


class TestReply:
    async def test_a_reply_comes_back_and_the_lease_ends_with_it(self, one: World) -> None:
        fields = [b"X-A: 1", b"X-Request-Id: r-1"]
        client, peer, _ = await started(one, post(b"/rollout/generate?x=%20", b'{"prompt": "a"}', *fields))
        assert one.in_flight() == [1]
        await peer.send(sized(b"done", b"200 OK", b"x-b: 2"))
        status, fields, body = await reply(client)
        worker = str(one.workers[0].url).encode()
        assert (status, body) == (200, b"done")
        assert fields == {
            b"x-b": b"2",
            b"content-length": b"4",
            b"x-sglang-router-worker": worker,
            b"x-sglang-router-queue-ms": b"0",
            b"x-sglang-router-weight-version": b"0",
            b"x-request-id": b"r-1",
        }
        await one.released((0, Result.OK, 200))

    @pytest.mark.parametrize(
        "request_line", [post(), get(), post(b"/v1/videos"), get(b"/v1/videos/1"), get(b"/health")]
    )
    async def test_every_reply_names_its_request_once(self, one: World, request_line: bytes) -> None:
        """The id that the worker saw, unless it has one of its own to say."""
        one.jobs.places["videos", "1"] = one.workers[0].worker_id
        for own in (b"", b"x-request-id: theirs"):
            client = await one.ask(request_line)
            peer = await (one.accept_control() if b"/health" in request_line else one.accept())
            seen = (await peer.read_head()).lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0]
            await peer.send(sized(b"{}", b"200 OK", *filter(None, [own])))
            lines = (await client.read_head()).lower().split(b"\r\n")
            named = [line.partition(b": ")[2] for line in lines if line.startswith(b"x-request-id:")]
            assert named == [b"theirs" if own else seen]
            assert len(seen) == 32
            await client.drop()
            await peer.drop()

    async def test_the_worker_gets_the_request_with_what_a_proxy_owes(self, one: World) -> None:
        client = await one.ask(post(b"/rollout/generate?x=%20", b"{}", b"X-A: 1", b"x-sglang-router-peer: me"))
        peer = await one.accept()
        lines = (await serve(peer)).split(b"\r\n")
        assert lines[:4] == [
            b"POST /rollout/generate?x=%20 HTTP/1.1",
            b"Host: 127.0.0.1:%d" % one.workers[0].url.port,
            b"X-A: 1",
            b"Content-Length: 2",
        ]
        names = [line.partition(b":")[0].lower() for line in lines[4:-2]]
        assert sorted(names) == [
            b"traceparent",
            b"via",
            b"x-forwarded-for",
            b"x-forwarded-host",
            b"x-forwarded-proto",
            b"x-request-id",
        ]
        await peer.send(sized())
        await reply(client)

    @pytest.mark.parametrize(
        ("status", "result"),
        [
            (b"204 No Content", Result.OK),
            (b"302 Found", Result.OK),
            (b"400 Bad Request", Result.OK),
            (b"404 Not Found", Result.OK),
            (SERVER_ERROR, Result.SERVER_ERROR),
            (b"501 Not Implemented", Result.SERVER_ERROR),
            (UNAVAILABLE, Result.SERVER_ERROR),
        ],
    )
    async def test_an_error_of_the_worker_s_passes_untouched(self, two: World, status: bytes, result: Result) -> None:
        client, peer, number = await started(two)
        body = b"" if status.startswith(b"204") else b'{"detail": "its own words"}'
        head = b"HTTP/1.1 " + status + (b"" if not body else b"\r\nContent-Length: %d" % len(body)) + b"\r\n\r\n"
        await peer.send(head + body)
        got, _, received = await reply(client)
        assert (got, received) == (int(status[:3]), body)
        await two.released((number, result, int(status[:3])))
        assert two.plane.counters.retries == 0

    async def test_connections_are_used_again(self, one: World) -> None:
        client = await one.connect()
        peer = None
        for _ in range(3):
            await client.send(post())
            peer = peer or await one.accept()
            await serve(peer, sized())
            assert (await reply(client))[0] == 200
        assert one.connections() == [1]
        await one.released(*[(0, Result.OK, 200)] * 3)

    async def test_a_worker_that_closes_after_a_500_without_saying_so_fails_nobody(self, one: World) -> None:
        client = await one.connect()
        for _ in range(2):
            await client.send(post())
            peer = await one.accept()
            await serve(peer, sized(b"Internal Server Error", SERVER_ERROR))
            assert (await reply(client))[0] == 500
        await one.released(*[(0, Result.SERVER_ERROR, 500)] * 2)

    async def test_older_names_reach_the_worker_by_the_new_ones(self, one: World) -> None:
        for path, target in ((b"/generate", b"/v1/images/generations"), (b"/generate_video", b"/v1/videos")):
            client, peer = await one.ask(post(path + b"?a=%41")), await one.accept()
            assert (await serve(peer, sized(b"{}", b"422 No"))).startswith(b"POST %b?a=%%41 HTTP/1.1\r\n" % target)
            assert (await reply(client))[0] == 422
            await peer.close()

    async def test_a_location_that_names_the_worker_leads_back_here(self, one: World) -> None:
        client, peer, _ = await started(one)
        url = str(one.workers[0].url).encode()
        await peer.send(sized(b"", b"307 Temporary Redirect", b"Location: %b/x/y?z" % url, b"X: %b" % url))
        _, fields, _ = await reply(client)
        assert (fields[b"location"], fields[b"x"]) == (b"/x/y?z", url)

    async def test_reads_pass_the_queue_and_carry_no_more_than_the_worker_says(self) -> None:
        async with world(1, cap=1) as one:
            _, busy, _ = await started(one)
            client = await one.ask(get(b"/server_info?x=1", b"X-Request-Id: r-1"))
            peer = await one.accept()
            await serve(peer, sized(b"info"))
            assert (await reply(client)) == (200, {b"content-length": b"4", b"x-request-id": b"r-1"}, b"info")
            await busy.send(sized())
            await one.released((0, Result.OK, 200), (0, Result.OK, 200))


VIDEO = b'{"id":"video_1","object":"video","status":"queued"}'


class TestJob:
    @pytest.mark.parametrize(
        "answer",
        [
            sized(VIDEO),
            sized(b'{"data":{"job_id":"video_1"}}'),
            b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(VIDEO), VIDEO),
        ],
    )
    @pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
    async def test_the_lease_of_a_job_lasts_until_the_job_ends(self, one: World, answer: bytes, version: bytes) -> None:
        client, peer, _ = await started(one, post(b"/v1/videos").replace(b"HTTP/1.1", version))
        await peer.send(answer)
        assert b" 20" in (await client.read_head())[:12]
        await eventually(lambda: len(one.plane.jobs) == 1)
        assert one.in_flight() == [1]
        asker = await one.ask(get(b"/v1/videos/video_1"))
        other = peer if one.accepted.empty() else await one.accept()
        await serve(other, sized(b'{"id":"video_1","status":"completed"}'))
        assert (await reply(asker))[0] == 200
        await one.released((0, Result.OK, 0))
        assert one.plane.counters.routes["videos"].statuses[2] == 1

    async def test_a_job_is_never_held_back_for_the_cap(self) -> None:
        async with world(1, cap=1) as one:
            _, busy, _ = await started(one)
            client = await one.ask(post(b"/v1/videos"))
            peer = await one.accept()
            await serve(peer, sized(VIDEO))
            assert (await reply(client))[0] == 200
            assert one.in_flight() == [2]
            one.jobs.statuses.append(JobStatus.ENDED)
            asker = await one.ask(get(b"/v1/videos/video_1"))
            await serve(peer, sized(b'{"status":"failed"}'))
            await reply(asker)
            await busy.send(sized())
            await one.released((0, Result.OK, 0), (0, Result.OK, 200))

    @pytest.mark.parametrize(
        "answer",
        [
            sized(b'{"detail":"no prompt"}', b"400 Bad Request"),
            sized(b"Internal Server Error", SERVER_ERROR),
            sized(b'{"object":"video"}'),
            sized(b""),
            sized(b"x" * 70_000),
        ],
    )
    async def test_a_reply_that_names_no_job_ends_the_lease(self, one: World, answer: bytes) -> None:
        client, peer, _ = await started(one, post(b"/v1/videos"))
        await peer.send(answer)
        status, _, _ = await reply(client)
        await one.released((0, Result.SERVER_ERROR if status == 500 else Result.OK, status))
        assert len(one.plane.jobs) == 0

    async def test_a_client_that_leaves_before_the_reply_leaves_a_job(self, one: World) -> None:
        client, peer, _ = await started(one, post(b"/v1/videos"))
        await client.close()
        await eventually(lambda: one.plane.counters.orphans == 1)
        await peer.send(sized(VIDEO))
        await eventually(lambda: len(one.plane.jobs) == 1)
        assert one.in_flight() == [1]
        one.lose(one.workers[0])
        await one.released((0, Result.DIED, 0))

    async def test_a_worker_that_dies_takes_its_jobs_along(self, one: World) -> None:
        client, peer, _ = await started(one, post(b"/v1/meshes"))
        await peer.send(sized(b'{"id":"mesh_1"}'))
        assert (await reply(client))[0] == 200
        one.lose(one.workers[0])
        await one.released((0, Result.DIED, 0))
        await eventually(lambda: len(one.plane.jobs) == 0)

    async def test_a_reply_that_breaks_off_is_a_502(self, one: World) -> None:
        client, peer, _ = await started(one, post(b"/v1/videos"))
        await peer.send(sized(VIDEO)[:-5])
        await peer.close()
        assert await code(client) == (502, "upstream_died")
        await one.released((0, Result.DIED, 0))


class TestDurableJob:
    """The client learns of its job when the job's owner is on disk."""

    @pytest.fixture
    async def durable(self) -> AsyncIterator[World]:
        async with world(1, is_durable=True) as durable:
            yield durable
            for kind, job_id, *_ in durable.saver.notes:
                durable.plane.jobs.heard(kind, job_id, b'{"status": "completed"}')
            await eventually(lambda: len(durable.plane.jobs) == 0)

    async def created(self, world: World) -> tuple[Peer, Peer]:
        """Let a job be created, and its reply wait for the disk."""
        client, peer, _ = await started(world, post(b"/v1/videos"))
        await peer.send(sized(VIDEO))
        await eventually(lambda: world.saver.flushes == 1)
        await turns(100)
        return client, peer

    async def test_the_reply_waits_for_the_disk(self, durable: World) -> None:
        client, _ = await self.created(durable)
        assert durable.saver.notes == [("videos", "video_1", durable.workers[0].worker_id, True)]
        assert (durable.in_flight(), len(durable.plane.jobs)) == ([1], 1)
        reading = asyncio.ensure_future(reply(client))
        await turns(100)
        assert not reading.done()
        durable.saver.disk_is_done.set()
        status, fields, body = await reading
        assert (status, body, fields[b"x-sglang-router-weight-version"]) == (200, VIDEO, b"0")

    async def test_the_job_can_be_asked_about_meanwhile(self, durable: World) -> None:
        _, peer = await self.created(durable)
        other = await durable.ask(get(b"/v1/videos/video_1"))
        await serve(peer, sized(b'{"id":"video_1","status":"completed"}'))
        assert (await reply(other))[0] == 200
        await durable.released((0, Result.OK, 0))

    @pytest.mark.parametrize("how", ["close", "reset", "half-close"])
    async def test_a_client_that_leaves_meanwhile_leaves_a_job(self, durable: World, how: str) -> None:
        client, _ = await self.created(durable)
        if how == "close":
            await client.close()
        elif how == "reset":
            client.reset()
        else:
            client.half_close()
        await eventually(lambda: durable.plane.counters.routes["videos"].statuses[2] == 1)
        assert (durable.in_flight(), len(durable.plane.jobs)) == ([1], 1)
        durable.saver.disk_is_done.set()
        await turns(100)

    async def test_a_worker_that_is_lost_meanwhile_has_created_it(self, durable: World) -> None:
        client, _ = await self.created(durable)
        durable.lose(durable.workers[0])
        await durable.released((0, Result.DIED, 0))
        durable.saver.disk_is_done.set()
        assert (await reply(client))[2] == VIDEO

    async def test_the_deadline_for_replies_does_not_count_the_disk(self) -> None:
        async with world(1, is_durable=True, timeout_s=0.05) as durable:
            client, _ = await self.created(durable)
            end_s = durable.fleet.now_s() + 0.1
            await eventually(lambda: durable.fleet.now_s() > end_s)
            durable.saver.disk_is_done.set()
            assert (await reply(client))[0] == 200
            durable.plane.jobs.heard("videos", "video_1", b'{"status": "completed"}')
            await durable.released((0, Result.OK, 0))

    async def test_shutting_down_waits_for_the_disk(self, durable: World) -> None:
        client, _ = await self.created(durable)
        durable.plane.stop_accepting()
        draining = asyncio.ensure_future(durable.plane.drain(5.0))
        await turns(100)
        assert not draining.done()
        durable.saver.disk_is_done.set()
        status, fields, _ = await reply(client)
        assert (status, fields[b"connection"]) == (200, b"close")
        await client.close()
        assert await draining

    async def test_the_end_of_the_router_does_not(self, durable: World) -> None:
        client, _ = await self.created(durable)
        await durable.plane.close()
        assert await client.read_to_end() == b""

    async def test_a_refused_creation_waits_for_nothing(self, durable: World) -> None:
        client, peer, _ = await started(durable, post(b"/v1/videos"))
        await peer.send(sized(b'{"detail":"no prompt"}', b"400 Bad Request"))
        assert (await reply(client))[0] == 400
        assert (durable.saver.notes, durable.saver.flushes) == ([], 0)


class TestImages:
    @pytest.mark.parametrize("pieces", [1, 7])
    async def test_the_owner_of_an_image_is_learnt_from_its_reply(self, two: World, pieces: int) -> None:
        client, peer, number = await started(two, post(b"/v1/images/generations"))
        body = b'{"id":"img_1","created":1,"data":[{"b64_json":"' + b"A" * 20_000 + b'"}]}'
        answer = sized(body)
        step = len(answer) // pieces + 1
        await peer.send(*(answer[at : at + step] for at in range(0, len(answer), step)))
        assert (await reply(client))[2] == body
        await two.released((number, Result.OK, 200))
        asker = await two.ask(get(b"/v1/images/img_1/content"))
        assert (await serve(peer, sized(b"PNG"))).startswith(b"GET /v1/images/img_1/content ")
        assert (await reply(asker))[2] == b"PNG"
        assert two.jobs.located == []

    async def test_an_error_names_no_image(self, one: World) -> None:
        client, peer, _ = await started(one, post(b"/v1/images/generations"))
        await peer.send(sized(b'{"id":"img_1"}', b"400 Bad Request"))
        await reply(client)
        asker = await one.ask(get(b"/v1/images/img_1/content"))
        assert await code(asker) == (404, "unknown_job")
        assert one.jobs.located == [("images", "img_1")]


UPGRADE = get(b"/v1/realtime_video/generate", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: k")

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

RESTART = b"\x88\x02\x03\xf4"


class TestTunnel:
    async def opened(self, world: World) -> tuple[Peer, Peer]:
        client = await world.ask(UPGRADE)
        peer = await world.accept()
        head = await serve(peer)
        assert b"Upgrade: websocket\r\n" in head
        assert b"Connection: Upgrade\r\n" in head
        await peer.send(SWITCH)
        head = await client.read_head()
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"x-sglang-router-worker: " in head
        return client, peer

    async def test_it_holds_a_lease_for_as_long_as_it_lasts(self, one: World) -> None:
        client, peer = await self.opened(one)
        assert (one.in_flight(), one.plane.counters.tunnels_now) == ([1], 1)
        await client.send(b"up")
        assert await peer.read(2) == b"up"
        await peer.send(b"\x82\x04down")
        assert await client.read(6) == b"\x82\x04down"
        client.half_close()
        assert await peer.read_to_end() == b""
        await peer.close()
        assert await client.read_to_end() == b""
        await one.released((0, Result.OK, 101))
        assert one.plane.counters.tunnels == 1

    async def test_a_worker_that_breaks_it_off_has_failed(self, one: World) -> None:
        client, peer = await self.opened(one)
        peer.reset()
        await client.is_cut()
        await one.released((0, Result.DIED, 101))

    async def test_a_worker_that_is_lost_ends_it(self, one: World) -> None:
        client, _ = await self.opened(one)
        one.lose(one.workers[0])
        assert await client.read_to_end() == b""
        await one.released((0, Result.OK, 101))

    async def test_a_drain_ends_it_after_a_while_with_a_word(self, one: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sglang_diffusion_routing.proxy.work.TUNNEL_DRAIN_S", 0.05)
        client, _ = await self.opened(one)
        [lease] = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        assert lease.holder is not None
        lease.holder.worker_draining()
        assert await client.read_to_end() == RESTART
        await one.released((0, Result.OK, 101))

    async def test_a_drain_leaves_other_work_alone(self, one: World) -> None:
        client, peer, _ = await started(one)
        [lease] = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        assert lease.holder is not None
        lease.holder.worker_draining()
        await peer.send(sized())
        assert (await reply(client))[0] == 200

    async def test_a_refusal_of_the_worker_s_is_an_ordinary_reply(self, one: World) -> None:
        client = await one.ask(UPGRADE)
        peer = await one.accept()
        await serve(peer, sized(b"", b"403 Forbidden"))
        assert (await reply(client))[0] == 403
        await one.released((0, Result.OK, 403))
        assert one.plane.counters.tunnels == 0
        await client.send(post())
        await serve(peer, sized())
        assert (await reply(client))[0] == 200

    async def test_a_deadline_for_replies_does_not_end_it(self) -> None:
        async with world(1, timeout_s=0.05) as one:
            client, peer = await self.opened(one)
            began_s = one.fleet.now_s()
            await eventually(lambda: one.fleet.now_s() > began_s + 0.1)
            await client.send(b"up")
            assert await peer.read(2) == b"up"

    async def test_a_death_before_the_switch_goes_elsewhere(self, two: World) -> None:
        client = await two.ask(UPGRADE)
        peer = await two.accept()
        await serve(peer)
        await peer.close()
        second = await two.accept()
        await serve(second, SWITCH)
        assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
        await client.close()


class TestConnectionLimit:
    async def test_work_waits_for_a_connection_in_order(self) -> None:
        async with world(1, cap=0, max_connections=1) as one:
            first, peer, _ = await started(one)
            others = [await one.ask(post(body=b"%d" % number)) for number in range(3)]
            await eventually(lambda: one.in_flight() == [4])
            assert one.connections() == [1]
            await peer.send(sized())
            for number in range(3):
                assert (await serve(peer, sized())).endswith(b"%d" % number)
            for client in (first, *others):
                assert (await reply(client))[0] == 200
            assert one.accepted.empty()
            await one.released(*[(0, Result.OK, 200)] * 4)

    async def test_a_client_that_leaves_while_it_waits_for_one_leaves_nothing(self) -> None:
        async with world(1, cap=0, max_connections=1) as one:
            first, peer, _ = await started(one)
            leaving = await one.ask(post(body=b"leaving"))
            staying = await one.ask(post(body=b"staying"))
            await eventually(lambda: one.in_flight() == [3])
            await leaving.close()
            await eventually(lambda: one.in_flight() == [2])
            await peer.send(sized())
            assert (await serve(peer, sized())).endswith(b"staying")
            for client in (first, staying):
                assert (await reply(client))[0] == 200
            await one.released((0, Result.ABANDONED, 0), (0, Result.OK, 200), (0, Result.OK, 200))


class TestCounters:
    async def test_replies_are_counted_by_route_and_class(self, one: World) -> None:
        client = await one.connect()
        peer = None
        for status in (b"200 OK", b"404 No", b"302 Found"):
            await client.send(post())
            peer = peer or await one.accept()
            await serve(peer, sized(b"", status))
            await reply(client)
        assert one.plane.counters.routes["rollout"].statuses == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]

    async def test_bodies_are_counted_both_ways(self, one: World) -> None:
        client, peer, _ = await started(one, post(body=b"x" * 300_000))
        await peer.send(sized(b"y" * 700_000))
        await reply(client)
        # Heads count or not; they are small.
        assert 300_000 <= one.plane.counters.bytes_to_workers < 305_000
        assert 700_000 <= one.plane.counters.bytes_to_clients < 705_000

    async def test_orphans_are_counted_while_there_are_any(self, one: World) -> None:
        client, peer, _ = await started(one)
        await client.close()
        await eventually(lambda: one.plane.counters.orphans == 1)
        assert one.plane.counters.orphans_now == 1
        await peer.send(sized())
        await one.released((0, Result.OK, 200))
        assert (one.plane.counters.orphans, one.plane.counters.orphans_now) == (1, 0)


@pytest.mark.parametrize("kind", [Work, ControlCall, JobCall])
def test_one_that_is_made_for_every_request_keeps_its_facts_in_slots(kind: type) -> None:
    # With a dict beside them, and more than 30 facts, CPython 3.11 finds each of them ten times slower.
    assert kind.__dictoffset__ == 0


class Hands:
    """A clock that goes when it is moved."""

    def __init__(self, world: World) -> None:
        self.now_s = 100.0
        world.fleet.now_s = lambda: self.now_s


def times(world: World, route: str = "rollout") -> dict[str, tuple[int, float]]:
    """Give how often each phase has been timed, and the sum of that in seconds."""
    phases = zip(("queued", "head", "generated", "relayed"), world.plane.counters.routes[route].read(), strict=True)
    return {name: (sum(sizes.counts), sizes.total) for name, sizes in phases if sum(sizes.counts)}


class TestTimes:
    async def test_the_worker_is_done_when_a_sized_reply_begins(self, one: World) -> None:
        hands = Hands(one)
        client, peer, _ = await started(one)
        hands.now_s += 7
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await client.read_head()
        hands.now_s += 2
        await peer.send(b"cd")
        await one.released((0, Result.OK, 200))
        assert times(one) == {"queued": (1, 0), "head": (1, 7), "generated": (1, 7), "relayed": (1, 2)}

    async def test_of_a_reply_without_a_length_the_end_counts(self, one: World) -> None:
        hands = Hands(one)
        client, peer, _ = await started(one)
        hands.now_s += 7
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await client.read_head()
        hands.now_s += 2
        await peer.send(b"0\r\n\r\n")
        await one.released((0, Result.OK, 200))
        assert times(one) == {"queued": (1, 0), "head": (1, 7), "generated": (1, 9), "relayed": (1, 2)}

    async def test_waiting_is_no_generation(self) -> None:
        async with world(1, cap=1) as one:
            hands = Hands(one)
            _, peer, _ = await started(one)
            waiting = await one.ask(post())
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            hands.now_s += 5
            await peer.send(sized())
            await serve(peer)
            hands.now_s += 3
            await peer.send(sized())
            await reply(waiting)
            await one.released(*[(0, Result.OK, 200)] * 2)
            assert times(one) == {"queued": (2, 5), "head": (2, 13), "generated": (2, 8), "relayed": (2, 0)}

    async def test_waiting_in_vain_counts_and_being_refused_at_once_is_no_waiting(self) -> None:
        async with world(1, cap=1, queue=QueueLimits(max_requests=2)) as one:
            hands = Hands(one)
            first, peer, _ = await started(one)
            dropped, leaving = await one.ask(post()), await one.ask(post())
            await eventually(lambda: one.fleet.scheduler.queued == 2)
            assert await code(await one.ask(post())) == (429, "queue_full")
            hands.now_s += 5
            await leaving.close()
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            one.fleet.drop_queued(Aborted())
            await reply(dropped)
            assert times(one) == {"queued": (2, 10)}
            await peer.send(sized())
            await reply(first)

    @pytest.mark.parametrize("status", [b"500 Broken", b"404 No"])
    async def test_what_went_wrong_was_not_generated(self, one: World, status: bytes) -> None:
        hands = Hands(one)
        client, peer, _ = await started(one)
        hands.now_s += 7
        await peer.send(sized(b"", status))
        await reply(client)
        await eventually(lambda: not one.fleet.scheduler.live_leases)
        assert times(one) == {"queued": (1, 0), "head": (1, 7), "relayed": (1, 0)}

    async def test_a_second_worker_is_timed_alone_and_the_client_from_its_arrival(self, two: World) -> None:
        hands = Hands(two)
        client, peer, _ = await started(two)
        hands.now_s += 7
        peer.reset()
        other = await two.accept()
        await serve(other)
        hands.now_s += 3
        await other.send(sized())
        await reply(client)
        await eventually(lambda: not two.fleet.scheduler.live_leases)
        assert times(two) == {"queued": (1, 0), "head": (1, 10), "generated": (1, 3), "relayed": (1, 0)}

    async def test_what_nobody_waits_for_is_generated_all_the_same(self, one: World) -> None:
        hands = Hands(one)
        client, peer, _ = await started(one)
        await client.close()
        await eventually(lambda: one.plane.counters.orphans_now == 1)
        hands.now_s += 7
        await peer.send(sized())
        await one.released((0, Result.OK, 200))
        assert times(one) == {"queued": (1, 0), "generated": (1, 7)}

    async def test_a_reply_that_breaks_off_was_neither_made_nor_relayed(self, one: World) -> None:
        hands = Hands(one)
        client, peer, _ = await started(one)
        hands.now_s += 7
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await client.read_head()
        peer.reset()
        await one.released((0, Result.DIED, 200))
        assert times(one) == {"queued": (1, 0), "head": (1, 7)}

    async def test_a_tunnel_makes_nothing(self, one: World) -> None:
        hands = Hands(one)
        client = await one.ask(UPGRADE)
        peer = await one.accept()
        await serve(peer)
        hands.now_s += 2
        await peer.send(SWITCH)
        await client.read_head()
        hands.now_s += 60
        client.half_close()
        assert await peer.read_to_end() == b""
        await peer.close()
        await one.released((0, Result.OK, 101))
        assert times(one, "tunnel") == {"queued": (1, 0), "head": (1, 2)}

    async def test_a_job_takes_until_its_own_end(self, one: World) -> None:
        hands = Hands(one)
        client, peer, _ = await started(one, post(b"/v1/videos"))
        hands.now_s += 1
        await peer.send(sized(VIDEO))
        await reply(client)
        hands.now_s += 60
        one.plane.jobs.heard("videos", "video_1", b'{"status":"completed"}')
        await eventually(lambda: not len(one.plane.jobs))
        assert times(one, "videos") == {"queued": (1, 0), "head": (1, 1), "relayed": (1, 0)}
        made = one.plane.jobs.took["videos"].read()
        assert (sum(made.counts), made.total) == (1, 61)
