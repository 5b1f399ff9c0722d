import json
from collections.abc import AsyncIterator

import pytest

from http1.peers import Peer, eventually, turns
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.work import JobStatus, Result

pytestmark = pytest.mark.loopback


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world(1) as one:
        yield one


async def code(client: Peer) -> tuple[int, str]:
    """Read an error of the router."""
    status, _, body = await reply(client)
    return status, json.loads(body)["code"]


def values(raw: bytes, name: bytes) -> list[bytes]:
    """Give a field's values, in order, whatever its case."""
    lines = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [line.partition(b":")[2].strip() for line in lines if line.partition(b":")[0].lower() == name]


class TestControl:
    async def test_it_goes_to_the_control_app_and_takes_no_lease(self, one: World) -> None:
        fields = [b"Content-Type: application/json", b"X-Request-Id: r-1"]
        client = await one.ask(post(b"/workers", b'{"url": "http://w"}', *fields))
        app = await one.accept_control()
        request = await serve(app, sized(b'{"status": "success"}'))
        assert request.startswith(b"POST /workers HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
        assert request.endswith(b'\r\n\r\n{"url": "http://w"}')
        told = {b"content-length": b"21", b"x-request-id": b"r-1"}
        assert await reply(client) == (200, told, b'{"status": "success"}')
        assert one.fleet.ends == []
        assert one.plane.counters.routes["control"].statuses[2] == 1

    async def test_the_path_reaches_it_byte_for_byte(self, one: World) -> None:
        target = b"//x/../workers/http%3A%2f%2Fw:8000/?a=%20&b"
        client = await one.ask(get(target))
        app = await one.accept_control()
        assert (await serve(app, sized())).startswith(b"GET %b HTTP/1.1\r\n" % target)
        assert (await reply(client))[0] == 200

    async def test_facts_about_the_client_cannot_be_forged(self, one: World) -> None:
        forged = [
            b"x-sglang-router-peer: 6.6.6.6:66",
            b"X-SGLANG-ROUTER-PEER: 7.7.7.7:77",
            b"x-sglang-router-request-id: forged",
            b"X-Forwarded-For: 8.8.8.8",
            b"X-Request-Id: mine",
        ]
        client = await one.ask(get(b"/workers", *forged))
        app = await one.accept_control()
        request = await serve(app, sized())
        assert values(request, b"x-sglang-router-peer") == [b"%b:%d" % (client.local[0].encode(), client.local[1])]
        assert values(request, b"x-request-id") == [b"mine"]
        assert b"forged" not in request
        assert values(request, b"x-forwarded-for") == [b"127.0.0.1"]
        await reply(client)

    async def test_its_connection_is_used_again(self, one: World) -> None:
        client = await one.connect()
        app = None
        for _ in range(3):
            await client.send(get(b"/health"))
            app = app or await one.accept_control()
            await serve(app, sized())
            assert (await reply(client))[0] == 200

    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"])
    async def test_an_idle_connection_that_breaks_in_the_moment_of_use_is_made_anew(
        self, one: World, method: bytes
    ) -> None:
        client, app = await self.with_idle_connection(one)
        await client.send(post(b"/workers/w").replace(b"POST", method))
        sent = await serve(app)
        await app.close()
        fresh = await one.accept_control()
        again = await serve(fresh, sized(b"", b"200 OK", b"X: fresh"))
        assert again.startswith(b"%b /workers/w HTTP/1.1\r\n" % method)
        assert again.endswith(b"\r\n\r\n{}")
        for name in (b"x-request-id", b"x-sglang-router-peer"):
            assert values(again, name) == values(sent, name) != []
        assert values(await client.read_head(), b"x") == [b"fresh"]

    async def test_it_is_made_anew_once(self, one: World) -> None:
        client, app = await self.with_idle_connection(one)
        await client.send(get(b"/workers"))
        for each in (app, None):
            app = each or await one.accept_control()
            await serve(app)
            await app.close()
        assert await code(client) == (502, "upstream_died")
        assert one.control.empty()

    async def test_what_may_not_be_done_twice_is_not_sent_again(self, one: World) -> None:
        client, app = await self.with_idle_connection(one)
        await client.send(post(b"/workers"))
        await serve(app)
        await app.close()
        assert await code(client) == (502, "upstream_died")
        assert one.control.empty()

    async def test_what_is_no_longer_kept_is_not_sent_again(self) -> None:
        async with world(0, replay_max_bytes=10) as none:
            client, app = await self.with_idle_connection(none)
            await client.send(post(b"/workers/w", b"x" * 11).replace(b"POST", b"PUT"))
            await serve(app)
            await app.close()
            assert await code(client) == (502, "upstream_died")
            assert none.control.empty()

    async def with_idle_connection(self, world: World) -> tuple[Peer, Peer]:
        """Let one request pass; give its client, and the connection that the next request will use."""
        client = await world.ask(get(b"/health"))
        app = await world.accept_control()
        await serve(app, sized())
        assert (await reply(client))[0] == 200
        return client, app

    async def test_a_stream_of_events_passes_as_it_comes_and_ends_with_its_client(self, one: World) -> None:
        client = await one.ask(get(b"/dashboard/events"))
        app = await one.accept_control()
        await serve(app)
        await app.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.read_head()
        for number in range(3):
            await app.send(b"3\r\n%d\n\n\r\n" % number)
            assert await client.read(8) == b"3\r\n%d\n\n\r\n" % number
        await client.close()
        # It may only have stopped sending: that it is gone shows when the next events cannot be delivered.
        with pytest.raises(ConnectionError):
            await app.send(*[b"1\r\nx\r\n"] * 1000)

    async def test_a_client_that_only_stops_sending_gets_its_reply(self, one: World) -> None:
        client = await one.ask(get(b"/health"))
        app = await one.accept_control()
        client.half_close()
        await turns()
        await serve(app, sized())
        assert (await client.read_to_end()).endswith(b"ok")

    async def test_a_control_app_that_is_not_there_is_a_502(self, one: World) -> None:
        one.hide_control()
        client = await one.ask(get(b"/health"))
        assert await code(client) == (502, "connect_failed")

    async def test_a_control_app_that_breaks_off_is_a_502(self, one: World) -> None:
        client = await one.ask(get(b"/health"))
        app = await one.accept_control()
        await serve(app)
        await app.close()
        assert await code(client) == (502, "upstream_died")

    async def test_no_other_protocol_is_offered(self, one: World) -> None:
        client = await one.ask(get(b"/workers", b"Upgrade: websocket", b"Connection: Upgrade"))
        app = await one.accept_control()
        request = await serve(app, sized())
        assert values(request, b"upgrade") == values(request, b"connection") == []
        assert (await reply(client))[0] == 200

    async def test_an_upload_is_streamed_to_it(self, one: World) -> None:
        request = post(b"/update_weights_from_tensor", b"x" * 300_000)
        client = await one.ask(request[:1000])
        app = await one.accept_control()
        await app.read_head()
        await client.send(request[1000:])
        assert await app.read(300_000) == b"x" * 300_000
        await app.send(sized())
        assert (await reply(client))[0] == 200

    async def test_it_is_answered_while_every_worker_is_busy(self) -> None:
        async with world(1, cap=1) as one:
            busy = await one.ask(post())
            peer = await one.accept()
            await serve(peer)
            client = await one.ask(get(b"/health"))
            app = await one.accept_control()
            await serve(app, sized())
            assert (await reply(client))[0] == 200
            await peer.send(sized())
            await reply(busy)


class TestJob:
    @pytest.fixture
    async def two(self) -> AsyncIterator[World]:
        """Two workers; `v1` was made by the second."""
        async with world(2) as two:
            two.fleet.affinity.remember("videos", "v1", two.record(two.workers[1]), two.fleet.now_s())
            yield two

    @pytest.mark.parametrize("path", [b"/v1/videos/v1", b"/v1/videos/v1/content", b"/v1/videos?id=v1"])
    @pytest.mark.parametrize("method", [b"GET", b"HEAD"])
    async def test_it_goes_to_the_worker_that_made_the_thing(self, two: World, method: bytes, path: bytes) -> None:
        client = await two.ask(get(path, b"Range: bytes=0-1").replace(b"GET", method))
        peer = await two.accept()
        assert two.number(peer) == 1
        request = await serve(peer)
        assert request.startswith(b"%b %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % (method, path, two.workers[1].url.port))
        assert values(request, b"range") == [b"bytes=0-1"]
        await peer.send(sized(b"" if method == b"HEAD" else b"ok", b"206 Partial", b"etag: x"))
        head = await client.read_head()
        assert values(head, b"etag") == [b"x"]
        assert values(head, b"x-sglang-router-worker") == [str(two.workers[1].url).encode()]
        assert two.fleet.ends == []
        assert two.jobs.located == []

    async def test_an_unknown_thing_is_asked_for(self, two: World) -> None:
        two.jobs.places["meshes", "m1"] = two.workers[0].worker_id
        client = await two.ask(get(b"/v1/meshes/m1"))
        peer = await two.accept()
        assert two.number(peer) == 0
        await serve(peer, sized())
        assert (await reply(client))[0] == 200
        assert two.jobs.located == [("meshes", "m1")]

    async def test_what_nobody_knows_is_a_404(self, two: World) -> None:
        client = await two.ask(get(b"/v1/videos/none"))
        assert await code(client) == (404, "unknown_job")

    async def test_the_workers_are_asked_once_however_the_body_comes(self, two: World) -> None:
        two.jobs.may_locate.clear()
        two.jobs.places["videos", "v2"] = two.workers[0].worker_id
        client = await two.ask(post(b"/v1/videos/v2", b"abc").replace(b"POST", b"DELETE")[:-3])
        await eventually(lambda: two.jobs.located)
        await client.send(b"a", b"b")
        two.jobs.may_locate.set()
        peer = await two.accept()
        await client.send(b"c")
        assert (await serve(peer, sized())).endswith(b"abc")
        assert (await reply(client))[0] == 200
        assert two.jobs.located == [("videos", "v2")]

    async def test_what_was_found_on_a_worker_that_left_meanwhile_is_a_404(self, two: World) -> None:
        two.jobs.may_locate.clear()
        two.jobs.places["videos", "v2"] = two.workers[0].worker_id
        client = await two.ask(get(b"/v1/videos/v2"))
        await eventually(lambda: two.jobs.located)
        two.fleet.apply(ev.RemovalRequested(two.workers[0].worker_id, force=True))
        two.jobs.may_locate.set()
        assert await code(client) == (404, "unknown_job")

    async def test_what_was_found_on_a_worker_that_is_out_of_reach_is_a_503(self, two: World) -> None:
        two.jobs.places["videos", "v2"] = two.workers[0].worker_id
        two.fleet.apply(ev.QuarantineRequested(two.workers[0].worker_id))
        client = await two.ask(get(b"/v1/videos/v2"))
        assert await code(client) == (503, "owner_unavailable")

    async def test_a_client_that_leaves_while_the_workers_are_asked_leaves_nothing(self, two: World) -> None:
        two.jobs.may_locate.clear()
        client = await two.ask(get(b"/v1/videos/none"))
        await eventually(lambda: two.jobs.located)
        await client.close()
        await eventually(lambda: two.plane.counters.connections_now == 0)

    async def test_the_work_of_a_removed_worker_is_gone(self, two: World) -> None:
        two.fleet.apply(ev.RemovalRequested(two.workers[1].worker_id, force=True))
        client = await two.ask(get(b"/v1/videos/v1"))
        status, _, body = await reply(client)
        assert (status, json.loads(body)["code"]) == (410, "job_owner_gone")
        assert json.loads(body)["worker"] == str(two.workers[1].url)

    async def test_a_worker_that_was_removed_and_came_back_does_not_have_it(self, two: World) -> None:
        two.fleet.apply(ev.RemovalRequested(two.workers[1].worker_id, force=True))
        await two.add_worker(started=two.workers[1])
        client = await two.ask(get(b"/v1/videos/v1"))
        assert await code(client) == (410, "job_owner_gone")

    async def test_a_quarantined_owner_is_a_503(self, two: World) -> None:
        two.fleet.apply(ev.QuarantineRequested(two.workers[1].worker_id))
        client = await two.ask(get(b"/v1/videos/v1"))
        status, fields, body = await reply(client)
        assert (status, json.loads(body)["code"]) == (503, "owner_unavailable")
        assert json.loads(body)["status"] == "quarantined"
        assert int(fields[b"retry-after"]) >= 1

    async def test_an_owner_is_out_of_reach_for_as_long_as_it_sleeps(self, two: World) -> None:
        owner = two.workers[1]
        client = await two.connect()

        async def refusal() -> tuple[int, str, bytes]:
            await client.send(get(b"/v1/videos/v1"))
            status, fields, body = await reply(client)
            return status, json.loads(body)["status"], fields[b"retry-after"]

        def command_succeeded() -> None:
            two.fleet.apply(ev.CommandSucceeded(owner.worker_id, two.record(owner).command_id))

        two.fleet.apply(ev.SleepRequested(owner.worker_id))
        assert await refusal() == (503, "releasing", b"5")
        command_succeeded()
        assert await refusal() == (503, "sleeping", b"5")
        two.fleet.apply(ev.WakeRequested(owner.worker_id))
        assert await refusal() == (503, "resuming", b"5")
        command_succeeded()
        await client.send(get(b"/v1/videos/v1"))
        await serve(await two.accept(), sized())
        assert (await reply(client))[0] == 200

    async def test_an_owner_that_drains_still_hands_out_what_it_made(self, two: World) -> None:
        two.fleet.apply(ev.HoldRequested(two.workers[1].worker_id))
        client = await two.ask(get(b"/v1/videos/v1/content"))
        await serve(await two.accept(), sized(b"film"))
        assert (await reply(client))[2] == b"film"

    async def test_an_owner_that_does_not_listen_is_a_502(self, two: World) -> None:
        two.workers[1].stop()
        client = await two.ask(get(b"/v1/videos/v1"))
        assert await code(client) == (502, "connect_failed")

    async def test_an_owner_that_breaks_off_is_a_502_that_names_it(self, two: World) -> None:
        client = await two.ask(get(b"/v1/videos/v1"))
        peer = await two.accept()
        await serve(peer)
        await peer.close()
        status, _, body = await reply(client)
        assert (status, json.loads(body)["workers"]) == (502, [str(two.workers[1].url)])

    async def test_a_connection_that_breaks_in_the_moment_of_use_is_no_death(self, two: World) -> None:
        client = await two.connect()
        await client.send(get(b"/v1/videos/v1"))
        peer = await two.accept()
        await serve(peer, sized(b"{}"))
        await reply(client)
        await client.send(get(b"/v1/videos/v1"))
        await serve(peer)
        await peer.close()
        fresh = await two.accept()
        await serve(fresh, sized(b"{}"))
        assert (await reply(client))[0] == 200

    async def test_a_posted_call_is_not_sent_again(self, two: World) -> None:
        client = await two.ask(get(b"/v1/videos/v1"))
        peer = await two.accept()
        await serve(peer, sized(b"{}"))
        await reply(client)
        await client.send(post(b"/v1/videos/v1"))
        await serve(peer)
        await peer.close()
        assert await code(client) == (502, "upstream_died")
        assert two.accepted.empty()

    async def test_a_part_of_the_content_is_passed_on_as_the_part_that_it_is(self, two: World) -> None:
        client = await two.ask(get(b"/v1/videos/v1/content", b"Range: bytes=2-5", b'If-Range: "e"'))
        peer = await two.accept()
        part = [b"content-type: video/mp4", b"content-range: bytes 2-5/10", b"accept-ranges: bytes", b'etag: "e"']
        request = await serve(peer, sized(b"2345", b"206 Partial Content", *part))
        assert (values(request, b"range"), values(request, b"if-range")) == ([b"bytes=2-5"], [b'"e"'])
        status, fields, body = await reply(client)
        assert (status, fields[b"content-range"], fields[b"etag"], body) == (206, b"bytes 2-5/10", b'"e"', b"2345")

    async def test_a_client_that_leaves_takes_its_call_along(self, two: World) -> None:
        client = await two.ask(get(b"/v1/videos/v1/content"))
        peer = await two.accept()
        await serve(peer)
        await client.close()
        await peer.is_cut()

    async def test_a_location_that_names_the_worker_leads_back_here(self, two: World) -> None:
        client = await two.ask(get(b"/v1/videos/v1/content"))
        peer = await two.accept()
        location = b"Location: %b/files/x" % str(two.workers[1].url).encode()
        await serve(peer, sized(b"", b"302 Found", location))
        assert (await reply(client))[1][b"location"] == b"/files/x"

    async def test_large_content_is_streamed(self, two: World) -> None:
        client = await two.ask(get(b"/v1/videos/v1/content"))
        peer = await two.accept()
        await serve(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 10)
        await client.read_head()
        assert await client.read(10) == b"x" * 10
        await peer.send(b"x" * 99_990)
        assert await client.read(99_990) == b"x" * 99_990


class TestWatchedJob:
    @pytest.fixture
    async def running(self) -> AsyncIterator[tuple[World, Peer]]:
        """A worker with the job `v1` under way, which holds its lease, and the connection to the worker."""
        async with world(1) as one:
            client = await one.ask(post(b"/v1/videos"))
            peer = await one.accept()
            await serve(peer, sized(b'{"id":"v1","status":"queued"}'))
            assert (await reply(client))[0] == 200
            assert one.in_flight() == [1]
            yield one, peer

    async def ask(self, one: World, peer: Peer, request: bytes, answer: bytes) -> None:
        client = await one.ask(request)
        await serve(peer, answer)
        await reply(client)
        await turns()

    @pytest.mark.parametrize("word", [b"completed", b"failed", b"Succeeded"])
    async def test_a_client_s_own_question_tells_that_it_has_ended(
        self, running: tuple[World, Peer], word: bytes
    ) -> None:
        one, peer = running
        await self.ask(one, peer, get(b"/v1/videos/v1"), sized(b'{"id":"v1","status":"%b"}' % word))
        await one.released((0, Result.OK, 0))

    @pytest.mark.parametrize(
        ("request_", "answer"),
        [
            (get(b"/v1/videos/v1"), sized(b'{"id":"v1","status":"in_progress"}')),
            (get(b"/v1/videos/v1"), sized(b'{"status":"completed"}', b"404 Not Found")),
            (get(b"/v1/videos/v1"), sized(b'{"progress":100}')),
            (get(b"/v1/videos/v1/content"), sized(b'{"status":"completed"}')),
            (get(b"/v1/videos/v1", b"X: 1").replace(b"GET", b"POST"), sized(b'{"status":"completed"}')),
        ],
    )
    async def test_anything_else_does_not(self, running: tuple[World, Peer], request_: bytes, answer: bytes) -> None:
        one, peer = running
        await self.ask(one, peer, request_, answer)
        assert one.in_flight() == [1]
        one.lose(one.workers[0])
        await one.released((0, Result.DIED, 0))

    async def test_a_deleted_job_holds_its_lease_until_the_worker_s_queue_has_passed_it(
        self, running: tuple[World, Peer]
    ) -> None:
        one, peer = running
        delete = get(b"/v1/videos/v1").replace(b"GET", b"DELETE")
        await self.ask(one, peer, delete, sized(b'{"id":"v1","deleted":true}'))
        await eventually(lambda: one.jobs.barriers == [one.workers[0].worker_id])
        assert one.in_flight() == [1]
        one.jobs.barrier_is_back.set()
        await one.released((0, Result.OK, 0))

    async def test_a_refused_deletion_changes_nothing(self, running: tuple[World, Peer]) -> None:
        one, peer = running
        delete = get(b"/v1/videos/v1").replace(b"GET", b"DELETE")
        await self.ask(one, peer, delete, sized(b"{}", b"409 Conflict"))
        assert one.jobs.barriers == []
        assert one.in_flight() == [1]
        one.jobs.statuses.append(JobStatus.ENDED)
        one.lose(one.workers[0])
        await one.released((0, Result.DIED, 0))
