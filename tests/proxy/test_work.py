import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from http1.peers import FakeWorker, Peer, eventually, turns
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.limits import QueueLimits
from sglang_diffusion_routing.core.retry import BUDGET_SPARE
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.work import JobStatus, Result, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.proxy.work import DOUBT_S
from sglang_diffusion_routing.settings import OnDisconnect

pytestmark = pytest.mark.loopback

ASLEEP = b'{"detail":"Server is sleeping. Call resume_memory_occupation first."}'
SCHEDULER_DIED = b'{"status":"unhealthy","error":"Scheduler worker exited; restart the server"}'
SERVER_ERROR = b"500 Internal Server Error"
UNAVAILABLE = b"503 Service Unavailable"


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world(1) as one:
        yield one


@pytest.fixture
async def two() -> AsyncIterator[World]:
    async with world(2) as two:
        yield two


async def code(client: Peer) -> tuple[int, str]:
    """Read an error of the router."""
    status, _, body = await reply(client)
    return status, json.loads(body)["code"]


async def started(world: World, request: bytes | None = None) -> tuple[Peer, Peer, int]:
    """Let a request come to a worker whole; give client, worker's connection and worker's number."""
    client = await world.ask(post() if request is None else request)
    peer = await world.accept()
    await serve(peer)
    return client, peer, world.number(peer)


class UnreachableWorker:
    """A worker whose line of connections is full, so that connecting to it never ends."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.first = socket.create_connection(self.listener.getsockname())
        self.worker = FakeWorker()
        self.worker.stop()
        self.worker.url = WorkerUrl("http", "127.0.0.1", self.listener.getsockname()[1])
        self.worker.worker_id = type(self.worker.worker_id)(str(self.worker.url))

    def close(self) -> None:
        self.first.close()
        self.listener.close()


@pytest.fixture
async def unreachable() -> AsyncIterator[World]:
    """One worker to which connecting never ends."""
    target = UnreachableWorker()
    async with world(0) as unreachable:
        await unreachable.add_worker(started=target.worker)
        yield unreachable
    target.close()


class TestReply:
    async def test_a_reply_comes_back_and_the_lease_ends_with_it(self, one: World) -> None:
        client, peer, _ = await started(one, post(b"/rollout/generate?x=%20", b'{"prompt": "a"}', b"X-A: 1"))
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
        }
        await one.released((0, Result.OK, 200))

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
            client = await one.ask(get(b"/server_info?x=1"))
            peer = await one.accept()
            await serve(peer, sized(b"info"))
            assert (await reply(client)) == (200, {b"content-length": b"4"}, b"info")
            await busy.send(sized())
            await one.released((0, Result.OK, 200), (0, Result.OK, 200))


class TestQueue:
    async def test_work_waits_for_a_worker_in_order_and_says_how_long(self) -> None:
        async with world(1, cap=1) as one:
            first, peer, _ = await started(one)
            others = [await one.ask(post(body=b"%d" % number)) for number in range(3)]
            await eventually(lambda: one.fleet.scheduler.queued == 3)
            await asyncio.sleep(0.002)
            await peer.send(sized())
            await reply(first)
            for number, client in enumerate(others):
                assert (await serve(peer, sized())).endswith(b"%d" % number)
                status, fields, _ = await reply(client)
                assert status == 200
                assert int(fields[b"x-sglang-router-queue-ms"]) >= 1
            await one.released(*[(0, Result.OK, 200)] * 4)

    @pytest.mark.parametrize("how", ["close", "reset", "half-close"])
    async def test_a_client_that_leaves_the_queue_is_forgotten(self, how: str) -> None:
        async with world(1, cap=1) as one:
            first, peer, _ = await started(one)
            leaving = await one.ask(post(body=b"leaving"))
            staying = await one.ask(post(body=b"staying"))
            await eventually(lambda: one.fleet.scheduler.queued == 2)
            if how == "close":
                await leaving.close()
            elif how == "reset":
                leaving.reset()
            else:
                leaving.half_close()
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            await peer.send(sized())
            await reply(first)
            assert (await serve(peer, sized())).endswith(b"staying")
            assert (await reply(staying))[0] == 200
            await one.released(*[(0, Result.OK, 200)] * 2)

    async def test_a_full_queue_refuses(self) -> None:
        async with world(1, cap=1, queue=QueueLimits(max_requests=1)) as one:
            first, peer, _ = await started(one)
            second = await one.ask(post())
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            third = await one.ask(post())
            status, fields, body = await reply(third)
            assert (status, json.loads(body)["code"]) == (429, "queue_full")
            assert int(fields[b"retry-after"]) >= 1
            await peer.send(sized())
            await serve(peer, sized())
            for client in (first, second):
                assert (await reply(client))[0] == 200

    async def test_no_worker_is_a_503_with_the_counts(self) -> None:
        async with world(0) as none:
            client = await none.ask(post())
            status, fields, body = await reply(client)
            assert (status, json.loads(body)["code"]) == (503, "no_routable_worker")
            assert json.loads(body)["by_status"] == {}
            assert int(fields[b"retry-after"]) >= 1
            # The request was read whole, so the connection goes on.
            await client.send(post())
            assert (await code(client)) == (503, "no_routable_worker")

    async def test_what_no_worker_makes_is_a_400(self) -> None:
        async with world(0) as images:
            await images.add_worker(tasks=("T2I",))
            client = await images.ask(post(b"/v1/videos"))
            status, _, body = await reply(client)
            assert status == 400
            assert json.loads(body)["error"] == "No video-capable workers available in current worker pool."

    async def test_waiting_too_long_is_a_503(self) -> None:
        async with world(1, cap=1, queue_timeout_s=0.05) as one:
            first, peer, _ = await started(one)
            second = await one.ask(post())
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            deadline_s = one.fleet.scheduler.next_deadline_s()
            assert deadline_s is not None
            await eventually(lambda: one.fleet.now_s() > deadline_s)
            one.fleet.tick()
            assert await code(second) == (503, "queue_timeout")
            await peer.send(sized())
            await reply(first)
            await one.released((0, Result.OK, 200))

    async def test_the_last_worker_s_loss_ends_the_waiting(self) -> None:
        async with world(1, cap=1, retries=0) as one:
            first, _, _ = await started(one)
            second = await one.ask(post())
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            one.lose(one.workers[0])
            assert await code(first) == (502, "upstream_died")
            assert await code(second) == (503, "no_routable_worker")
            await one.released((0, Result.DIED, 0))


def demanding(version: bytes, path: bytes = b"/rollout/generate") -> bytes:
    return post(path, b"{}", b"x-sglang-router-min-weight-version: " + version)


URGENCIES = [(b"0", b"training"), (b"1", b"evaluation"), (b"2", b"9")]


class TestTerms:
    async def test_pinned_work_goes_to_its_worker_and_waits_for_it(self) -> None:
        async with world(2, cap=1) as two:
            asked = post(b"/rollout/generate", b"{}", b"x-sglang-router-worker: " + two.workers[1].worker_id.encode())
            clients = [await two.ask(asked)]
            first = await two.accept()
            clients.append(await two.ask(asked))
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            assert b"x-sglang-router" not in await serve(first, sized())
            assert (await reply(clients[0]))[0] == 200
            await serve(first, sized())
            assert (await reply(clients[1]))[1][b"x-sglang-router-worker"] == two.workers[1].worker_id.encode()

    async def test_pinned_work_is_never_sent_to_another_worker(self, two: World) -> None:
        name = two.workers[1].worker_id
        client = await two.ask(post(b"/rollout/generate", b"{}", b"x-sglang-router-worker: " + name.encode()))
        peer = await two.accept()
        await serve(peer)
        peer.reset()
        assert await code(client) == (502, "upstream_died")
        await two.released((1, Result.DIED, 0))

    @pytest.mark.parametrize(
        ("name", "answer"),
        [
            (b"http://nobody:1", (404, "unknown_worker")),
            (b"the third one", (400, "invalid_worker_url")),
        ],
    )
    async def test_a_worker_that_is_not_there_is_said_to_be(
        self, one: World, name: bytes, answer: tuple[int, str]
    ) -> None:
        client = await one.ask(post(b"/rollout/generate", b"{}", b"x-sglang-router-worker: " + name))
        assert await code(client) == answer

    async def test_what_is_more_urgent_is_next(self) -> None:
        async with world(1, cap=1) as one:
            running, peer, _ = await started(one)
            asked = [post(b"/rollout/generate", body, b"x-sglang-router-priority: " + name) for body, name in URGENCIES]
            clients = []
            for number, each in enumerate(asked, 1):
                clients.append(await one.ask(each))
                await eventually(lambda number=number: one.fleet.scheduler.queued == number)
            await peer.send(sized())
            assert (await reply(running))[0] == 200
            assert [(await serve(peer, sized()))[-1:] for _ in asked] == [b"2", b"1", b"0"]
            assert [(await reply(client))[0] for client in clients] == [200, 200, 200]
            await one.released(*[(0, Result.OK, 200)] * 4)

    async def test_a_priority_that_is_none_is_a_400(self, one: World) -> None:
        client = await one.ask(post(b"/rollout/generate", b"{}", b"x-sglang-router-priority: high"))
        assert await code(client) == (400, "invalid_field")

    @pytest.mark.parametrize("limit_s", [None, 3600.0])
    async def test_a_request_may_say_how_long_it_waits(self, limit_s: float | None) -> None:
        async with world(1, cap=1, queue_timeout_s=limit_s) as one:
            _, peer, _ = await started(one)
            client = await one.ask(post(b"/rollout/generate", b"{}", b"x-sglang-router-queue-timeout: 0.05"))
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            deadline_s = one.fleet.scheduler.next_deadline_s()
            assert deadline_s is not None
            assert deadline_s <= one.fleet.now_s() + 0.05
            await eventually(lambda: one.fleet.now_s() > deadline_s)
            one.fleet.tick()
            assert await code(client) == (503, "queue_timeout")
            await peer.send(sized())
            await eventually(lambda: not one.fleet.scheduler.live_leases)

    async def test_a_request_cannot_wait_for_longer_than_the_setting_says(self) -> None:
        async with world(1, cap=1, queue_timeout_s=0.05) as one:
            _, peer, _ = await started(one)
            client = await one.ask(post(b"/rollout/generate", b"{}", b"x-sglang-router-queue-timeout: 3600"))
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            deadline_s = one.fleet.scheduler.next_deadline_s()
            assert deadline_s is not None
            assert deadline_s <= one.fleet.now_s() + 0.05
            await client.close()
            await peer.send(sized())
            await eventually(lambda: not one.fleet.scheduler.live_leases)


class TestWeights:
    async def test_a_demand_is_met_by_the_workers_that_have_the_version(self, two: World) -> None:
        two.load(two.workers[1], "v1")
        two.load(two.workers[0], "v2")
        client = await two.ask(demanding(b"v2"))
        peer = await two.accept()
        assert two.number(peer) == 0
        assert b"x-sglang-router" not in await serve(peer, sized())
        assert (await reply(client))[1][b"x-sglang-router-weight-version"] == b"v2"

    async def test_it_waits_for_them(self, one: World) -> None:
        client = await one.ask(demanding(b"v1"))
        await eventually(lambda: one.fleet.scheduler.queued == 1)
        one.load(one.workers[0], "v1")
        await serve(await one.accept(), sized())
        status, fields, _ = await reply(client)
        assert (status, fields[b"x-sglang-router-weight-version"]) == (200, b"v1")

    async def test_it_does_not_wait_for_ever(self) -> None:
        limits = QueueLimits(weights_wait_s=0.05)
        async with world(1, queue=limits) as one:
            client = await one.ask(demanding(b"v1"))
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            deadline_s = one.fleet.scheduler.next_deadline_s()
            assert deadline_s is not None
            await eventually(lambda: one.fleet.now_s() > deadline_s)
            one.fleet.tick()
            status, fields, body = await reply(client)
            facts = json.loads(body)
            assert (status, facts["code"], facts["min_weight_version"]) == (503, "weights_unmet", "v1")
            assert int(fields[b"retry-after"]) >= 1

    @pytest.mark.parametrize("how", ["close", "reset", "half-close"])
    async def test_a_client_that_leaves_while_it_waits_is_forgotten(self, one: World, how: str) -> None:
        client = await one.ask(demanding(b"v1"))
        await eventually(lambda: one.fleet.scheduler.queued == 1)
        if how == "close":
            await client.close()
        elif how == "reset":
            client.reset()
        else:
            client.half_close()
        await eventually(lambda: not one.fleet.scheduler.queued)
        one.load(one.workers[0], "v1")
        await one.released()

    async def test_work_that_goes_elsewhere_demands_the_same_there(self, two: World) -> None:
        two.roll("v1", two.workers[0])
        client = await two.ask(demanding(b"v1"))
        peer = await two.accept()
        assert two.number(peer) == 0
        await serve(peer)
        peer.reset()
        await eventually(lambda: two.fleet.scheduler.queued == 1)
        two.roll("v1", two.workers[1])
        peer = await two.accept()
        assert two.number(peer) == 1
        await serve(peer, sized())
        assert (await reply(client))[0] == 200

    @pytest.mark.parametrize("version", [b"", b"v" * 257, b"a\tb"])
    async def test_what_is_no_version_is_a_400(self, one: World, version: bytes) -> None:
        client = await one.ask(demanding(version))
        assert await code(client) == (400, "invalid_field")
        assert one.fleet.scheduler.live_leases == 0

    async def test_reads_demand_nothing(self, one: World) -> None:
        client = await one.ask(get(b"/stats", b"x-sglang-router-min-weight-version: v9"))
        await serve(await one.accept(), sized())
        assert (await reply(client))[0] == 200

    async def test_the_version_is_unknown_when_others_came_while_it_was_made(self, one: World) -> None:
        client, peer, _ = await started(one)
        one.load(one.workers[0], "v1")
        await peer.send(sized())
        assert (await reply(client))[1][b"x-sglang-router-weight-version"] == b"unknown"
        client = await one.ask(post())
        await serve(peer, sized())
        assert (await reply(client))[1][b"x-sglang-router-weight-version"] == b"v1"

    async def test_what_the_next_process_answers_is_not_passed_on(self, two: World) -> None:
        """The lease was the other's, which died before the connection stood; nobody else knows that yet."""
        client, stranger, _ = await started(two)
        number = two.number(stranger)
        record = two.record(two.workers[number])
        two.fleet.apply(ev.SentinelEnded(record.worker_id, record.incarnation))
        await stranger.send(sized(b"on the weights that it started with"))
        other = await two.accept()
        assert two.number(other) != number
        await serve(other, sized(b"ok"))
        assert (await reply(client))[2] == b"ok"

    async def test_what_comes_over_a_connection_from_before_the_doubt_is_passed_on(self, one: World) -> None:
        client, peer, _ = await started(one)
        await asyncio.sleep(DOUBT_S)
        record = one.record(one.workers[0])
        one.fleet.apply(ev.SentinelEnded(record.worker_id, record.incarnation))
        await peer.send(sized(b"late"))
        assert (await reply(client))[2] == b"late"


class TestModel:
    @pytest.fixture
    async def models(self) -> AsyncIterator[World]:
        async with world(0) as models:
            for name in ("alpha", "beta"):
                await models.add_worker(model=name)
            assert models.fleet.scheduler.model_matters
            yield models

    BOUNDARY = b"xyz"

    @pytest.mark.parametrize("model", ["alpha", "beta"])
    @pytest.mark.parametrize("form", ["json", "chunked", "multipart"])
    async def test_the_model_that_a_body_names_chooses_the_worker(self, models: World, model: str, form: str) -> None:
        name = model.encode()
        if form == "multipart":
            body = b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n--xyz--\r\n' % name
            request = post(b"/v1/images/edits", body, b"Content-Type: multipart/form-data; boundary=xyz")
        elif form == "json":
            request = post(b"/v1/images/generations", b'{"prompt": "a", "model": "%b", "n": 1}' % name)
        else:
            chunks = b'b\r\n{"model": "\r\n%x\r\n%b"}\r\n0\r\n\r\n' % (len(name) + 2, name)
            request = b"POST /rollout/generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        client = await models.ask(request)
        peer = await models.accept()
        assert models.number(peer) == ["alpha", "beta"].index(model)
        await peer.read_head()
        received = b""
        expected = request.partition(b"\r\n\r\n")[2]
        while received != expected:
            received += await peer.read_some()
        await peer.send(sized())
        assert (await reply(client))[0] == 200

    async def test_the_name_is_waited_for(self, models: World) -> None:
        request = post(body=b'{"prompt": "a", "model": "beta", "n": 1}')
        client = await models.ask(request[:-20], request[-20:-14])
        await turns()
        assert models.in_flight() == [0, 0]
        await client.send(request[-14:])
        peer = await models.accept()
        assert models.number(peer) == 1
        assert (await serve(peer, sized())).endswith(b'"beta", "n": 1}')
        assert (await reply(client))[0] == 200

    @pytest.mark.parametrize("body", [b"{}", b'{"model": "unheard of"}', b"not json"])
    async def test_a_body_that_names_none_of_them_goes_to_any(self, models: World, body: bytes) -> None:
        client = await models.ask(post(body=body))
        peer = await models.accept()
        assert (await serve(peer, sized())).endswith(body)
        assert (await reply(client))[0] == 200

    async def test_a_name_that_comes_too_late_is_not_waited_for(self, models: World) -> None:
        size = 200_000
        client = await models.ask(post(body=b"x" * size)[:-1])
        peer = await models.accept()
        await peer.read_head()
        await client.send(b"x")
        assert await peer.read(size) == b"x" * size
        await peer.send(sized())
        assert (await reply(client))[0] == 200

    async def test_who_waits_for_a_100_is_not_made_to_wait_for_ever(self, models: World) -> None:
        body = b'{"model": "beta"}'
        request = post(b"/rollout/generate", body, b"Expect: 100-continue")
        client = await models.ask(request[: -len(body)])
        peer = await models.accept()
        await peer.read_head()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert await peer.read(len(body)) == body
        await peer.send(sized())
        assert (await reply(client))[0] == 200


class TestClientLeaves:
    async def test_while_connecting(self, unreachable: World) -> None:
        client = await unreachable.ask(post())
        await eventually(lambda: unreachable.in_flight() == [1])
        await client.close()
        await unreachable.released((0, Result.ABANDONED, 0))

    async def test_while_sending(self, one: World) -> None:
        client = await one.ask(post(b"/upload", b"x" * 100)[:-50])
        peer = await one.accept()
        await peer.read_head()
        await client.close()
        await one.released((0, Result.ABANDONED, 0))
        await peer.is_cut()

    async def test_while_the_worker_works_it_stays_charged_until_its_reply(self, one: World) -> None:
        client, peer, _ = await started(one)
        await client.close()
        await eventually(lambda: one.plane.counters.orphans == 1)
        assert one.in_flight() == [1]
        await peer.send(sized())
        await one.released((0, Result.OK, 200))
        assert one.connections() == [1]

    async def test_while_an_error_is_read_whole(self, two: World) -> None:
        client, peer, number = await started(two)
        await peer.send(sized(ASLEEP, SERVER_ERROR)[:-10])
        await turns()
        await client.close()
        await eventually(lambda: two.plane.counters.orphans == 1)
        await peer.send(ASLEEP[-10:])
        # Nobody waits, so it goes nowhere else.
        await two.released((number, Result.ASLEEP, 500))
        assert two.accepted.empty()

    async def test_in_the_middle_of_a_sized_reply(self, one: World) -> None:
        client, peer, _ = await started(one)
        await peer.send(sized(b"x" * 100)[:-50])
        await client.read_head()
        await client.close()
        await one.released((0, Result.ABANDONED, 200))
        await eventually(lambda: one.connections() == [0])

    async def test_in_the_middle_of_a_chunked_reply_the_worker_stays_charged(self, one: World) -> None:
        client, peer, _ = await started(one)
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await client.read_head()
        await client.close()
        await eventually(lambda: one.plane.counters.orphans == 1)
        assert one.in_flight() == [1]
        await peer.send(b"0\r\n\r\n")
        await one.released((0, Result.OK, 200))

    async def test_on_a_second_worker(self, two: World) -> None:
        client, peer, number = await started(two)
        await peer.close()
        second = await two.accept()
        await serve(second)
        await client.close()
        await eventually(lambda: two.plane.counters.orphans == 1)
        await second.send(sized())
        await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))

    @pytest.mark.parametrize("leaves", [True, False])
    async def test_while_it_waits_for_a_second_worker(self, leaves: bool) -> None:
        async with world(2, cap=1) as two:
            clients = [await two.ask(post(body=b"0")), await two.ask(post(body=b"1"))]
            peers: dict[int, Peer] = {}
            owners: dict[int, Peer] = {}
            for _ in range(2):
                peer = await two.accept()
                peers[two.number(peer)] = peer
                owners[two.number(peer)] = clients[int((await serve(peer))[-1:])]
            await peers[0].close()
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            if leaves:
                await owners[0].close()
                await eventually(lambda: two.fleet.scheduler.queued == 0)
            await peers[1].send(sized())
            assert (await reply(owners[1]))[0] == 200
            if leaves:
                await two.released((0, Result.DIED, 0), (1, Result.OK, 200))
                return
            await serve(peers[1], sized())
            assert (await reply(owners[0]))[0] == 200
            await two.released((0, Result.DIED, 0), (1, Result.OK, 200), (1, Result.OK, 200))

    async def test_the_wait_for_an_orphan_has_an_end(self) -> None:
        async with world(1, orphan_timeout_s=0.05) as one:
            client, peer, _ = await started(one)
            await client.close()
            await one.released((0, Result.ABANDONED, 0))
            await peer.is_cut()

    async def test_an_engine_that_does_stop_is_told_at_once(self) -> None:
        async with world(1, on_disconnect=OnDisconnect.CANCEL) as one:
            client, peer, _ = await started(one)
            await client.close()
            await one.released((0, Result.ABANDONED, 0))
            await peer.is_cut()
            assert one.plane.counters.orphans == 1


class TestTimeout:
    async def test_a_late_worker_is_a_504_and_stays_charged(self) -> None:
        async with world(1, timeout_s=0.1) as one:
            client, peer, _ = await started(one, post(b"/rollout/generate", b"{}", b"X-Request-Id: r-7"))
            status, fields, body = await reply(client)
            assert (status, fields[b"x-request-id"]) == (504, b"r-7")
            assert json.loads(body)["code"] == "upstream_timeout"
            assert json.loads(body)["timeout_s"] == 0.1
            assert one.in_flight() == [1]
            await peer.send(sized())
            await one.released((0, Result.OK, 200))
            # The client's connection goes on.
            await client.send(post())
            await serve(peer, sized())
            assert (await reply(client))[0] == 200

    async def test_it_goes_nowhere_else(self) -> None:
        async with world(2, timeout_s=0.05) as two:
            client, peer, number = await started(two)
            assert await code(client) == (504, "upstream_timeout")
            await peer.close()
            await two.released((number, Result.DIED, 0))
            assert two.accepted.empty()

    async def test_an_upload_that_is_not_whole_is_taken_back(self) -> None:
        async with world(1, timeout_s=0.05) as one:
            client = await one.ask(post(b"/upload", b"x" * 100)[:-50])
            peer = await one.accept()
            await peer.read_head()
            assert await code(client) == (504, "upstream_timeout")
            assert await client.read_to_end() == b""
            await one.released((0, Result.ABANDONED, 0))

    async def test_a_reply_that_has_begun_may_take_its_time(self) -> None:
        async with world(1, timeout_s=0.05) as one:
            client, peer, _ = await started(one)
            await peer.send(sized(b"x" * 10)[:-5])
            await client.read_head()
            began_s = one.fleet.now_s()
            await eventually(lambda: one.fleet.now_s() > began_s + 0.1)
            await peer.send(b"x" * 5)
            assert await client.read(10) == b"x" * 10
            await one.released((0, Result.OK, 200))

    async def test_each_worker_has_its_own(self) -> None:
        async with world(2, timeout_s=0.3) as two:
            client, peer, number = await started(two)
            began_s = two.fleet.now_s()
            await eventually(lambda: two.fleet.now_s() > began_s + 0.2)
            await peer.close()
            second = await two.accept()
            await serve(second)
            began_s = two.fleet.now_s()
            await eventually(lambda: two.fleet.now_s() > began_s + 0.15)
            await second.send(sized())
            assert (await reply(client))[0] == 200
            await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))


class TestFailover:
    async def test_a_refused_connection_goes_elsewhere(self, two: World) -> None:
        two.workers[0].stop()
        for _ in range(2):
            client = await two.ask(post())
            peer = await two.accept()
            await serve(peer, sized())
            assert (await reply(client))[0] == 200
            await peer.close()
        assert [end for end in two.fleet.ends if end[0] == two.workers[0].worker_id] == [
            (two.workers[0].worker_id, Result.CONNECT_FAILED, 0)
        ] * two.plane.counters.retries
        assert two.plane.counters.retries >= 1

    async def test_no_connection_anywhere_is_a_502(self, two: World) -> None:
        for worker in two.workers:
            worker.stop()
        client = await two.ask(post())
        status, _, body = await reply(client)
        assert (status, json.loads(body)["code"]) == (502, "connect_failed")
        assert sorted(end[1:] for end in two.fleet.ends) == [(Result.CONNECT_FAILED, 0)] * 2
        assert {end[0] for end in two.fleet.ends} == {worker.worker_id for worker in two.workers}

    async def test_a_worker_that_cannot_be_reached_in_time_is_passed_over(self) -> None:
        target = UnreachableWorker()
        async with world(0, connect_timeout_s=0.1) as two:
            await two.add_worker(started=target.worker)
            client = await two.ask(post())
            await eventually(lambda: two.in_flight() == [1])
            await two.add_worker()
            peer = await two.accept()
            await serve(peer, sized())
            assert (await reply(client))[0] == 200
            await two.released((0, Result.CONNECT_FAILED, 0), (1, Result.OK, 200))
        target.close()

    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_a_death_before_the_reply_goes_elsewhere_once(self, two: World, how: str) -> None:
        client, peer, number = await started(two, post(body=b"the same"))
        if how == "close":
            await peer.close()
        else:
            peer.reset()
        second = await two.accept()
        assert two.number(second) == 1 - number
        assert (await serve(second, sized())).endswith(b"the same")
        status, fields, _ = await reply(client)
        assert (status, fields[b"x-sglang-router-worker"]) == (200, str(two.workers[1 - number].url).encode())
        await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))
        assert two.plane.counters.retries == 1

    async def test_two_deaths_are_a_502_that_names_both(self) -> None:
        async with world(3) as three:
            client, peer, number = await started(three)
            await peer.close()
            second = await three.accept()
            await serve(second)
            other = three.number(second)
            await second.close()
            status, _, body = await reply(client)
            assert (status, json.loads(body)["code"]) == (502, "upstream_died")
            assert json.loads(body)["workers"] == [str(three.workers[n].url) for n in (number, other)]
            await three.released((number, Result.DIED, 0), (other, Result.DIED, 0))
            assert three.accepted.empty()

    async def test_the_only_worker_s_death_is_a_502(self, one: World) -> None:
        client, peer, _ = await started(one)
        await peer.close()
        status, _, body = await reply(client)
        assert (status, json.loads(body)["workers"]) == (502, [str(one.workers[0].url)])
        await one.released((0, Result.DIED, 0))

    async def test_a_body_above_what_is_kept_is_not_sent_again(self) -> None:
        async with world(2, replay_max_bytes=1000) as two:
            client, peer, number = await started(two, post(body=b"x" * 1001))
            await peer.close()
            assert await code(client) == (502, "upstream_died")
            await two.released((number, Result.DIED, 0))
            assert two.accepted.empty()

    async def test_a_router_told_not_to_retry_does_not(self) -> None:
        async with world(2, retries=0) as two:
            client, peer, number = await started(two)
            await peer.close()
            assert await code(client) == (502, "upstream_died")
            await two.released((number, Result.DIED, 0))
            assert two.plane.counters.retries == 0

    async def test_a_reply_that_has_begun_goes_nowhere_else(self, two: World) -> None:
        client, peer, number = await started(two)
        await peer.send(sized(b"x" * 100)[:-50])
        await client.read_head()
        await peer.close()
        assert await client.is_cut()
        await two.released((number, Result.DIED, 200))
        assert two.accepted.empty()

    async def test_what_is_not_http_is_a_502_and_the_worker_s_fault(self, two: World) -> None:
        client, peer, number = await started(two)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx")
        assert await code(client) == (502, "bad_upstream_reply")
        await two.released((number, Result.DIED, 0))
        assert two.accepted.empty()

    @pytest.mark.parametrize(
        ("status", "body", "result"),
        [(SERVER_ERROR, ASLEEP, Result.ASLEEP), (UNAVAILABLE, SCHEDULER_DIED, Result.SCHEDULER_DIED)],
    )
    @pytest.mark.parametrize("framing", ["sized", "chunked"])
    async def test_a_worker_that_says_nothing_ran_is_passed_over(
        self, two: World, status: bytes, body: bytes, result: Result, framing: str
    ) -> None:
        client, peer, number = await started(two, post(body=b"the same"))
        if framing == "sized":
            await peer.send(sized(body, status))
        else:
            chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            await peer.send(b"HTTP/1.1 %b\r\nTransfer-Encoding: chunked\r\n\r\n" % status + chunks)
        second = await two.accept()
        assert (await serve(second, sized())).endswith(b"the same")
        assert (await reply(client))[0] == 200
        await two.released((number, result, int(status[:3])), (1 - number, Result.OK, 200))
        record = two.record(two.workers[number])
        if result is Result.ASLEEP:
            assert record.state is WorkerState.SLEEPING
        else:
            assert record.vitals.failures == 1

    async def test_when_all_say_so_the_client_learns_why(self, two: World) -> None:
        client, peer, number = await started(two)
        await peer.send(sized(ASLEEP, SERVER_ERROR))
        second = await two.accept()
        await serve(second, sized(ASLEEP, SERVER_ERROR))
        status, fields, body = await reply(client)
        assert (status, json.loads(body)["by_status"]) == (503, {"sleeping": 2})
        assert "asleep" in json.loads(body)["error"]
        assert int(fields[b"retry-after"]) >= 1
        await two.released((number, Result.ASLEEP, 500), (1 - number, Result.ASLEEP, 500))

    async def test_a_worker_that_says_so_before_the_upload_is_whole_is_believed_but_not_passed_over(
        self, two: World
    ) -> None:
        client = await two.ask(post(b"/upload", b"x" * 100)[:-50])
        peer = await two.accept()
        await peer.read_head()
        number = two.number(peer)
        await peer.send(sized(ASLEEP, SERVER_ERROR))
        status, fields, body = await reply(client)
        assert (status, body, fields[b"connection"]) == (500, ASLEEP, b"close")
        await two.released((number, Result.ASLEEP, 500))
        assert two.accepted.empty()

    async def test_a_large_error_is_not_looked_into(self, two: World) -> None:
        client, peer, number = await started(two)
        large = ASLEEP + b" " * 10_000
        await peer.send(sized(large, SERVER_ERROR))
        assert (await reply(client))[2] == large
        await two.released((number, Result.SERVER_ERROR, 500))


class TestRetryOn:
    @pytest.mark.parametrize("status", [b"500 Oops", b"502 Bad Gateway", b"503 Unavailable", b"504 Timeout"])
    async def test_a_status_that_was_asked_for_goes_elsewhere(self, status: bytes) -> None:
        async with world(2, retry_on=(int(status[:3]),)) as two:
            client, peer, number = await started(two, post(body=b"the same"))
            await peer.send(sized(b"no", status))
            assert (await serve(await two.accept(), sized())).endswith(b"the same")
            status_code, fields, body = await reply(client)
            other = str(two.workers[1 - number].url).encode()
            assert (status_code, fields[b"x-sglang-router-worker"], body) == (200, other, b"ok")
            await two.released((number, Result.SERVER_ERROR, int(status[:3])), (1 - number, Result.OK, 200))

    async def test_another_status_does_not(self) -> None:
        async with world(2, retry_on=(503,)) as two:
            client, peer, number = await started(two)
            await peer.send(sized(b"no", SERVER_ERROR))
            assert (await reply(client))[::2] == (500, b"no")
            await two.released((number, Result.SERVER_ERROR, 500))

    async def test_when_all_say_so_the_last_answer_counts(self) -> None:
        async with world(3, retry_on=(500,)) as three:
            client, peer, number = await started(three)
            await peer.send(sized(b"first", SERVER_ERROR))
            second = await three.accept()
            await serve(second, sized(b"second", SERVER_ERROR))
            assert (await reply(client))[::2] == (500, b"second")
            other = three.number(second)
            await three.released((number, Result.SERVER_ERROR, 500), (other, Result.SERVER_ERROR, 500))

    @pytest.mark.parametrize("framing", ["sized", "chunked"])
    async def test_without_another_worker_the_answer_is_the_worker_s_own(self, framing: str) -> None:
        async with world(1, retry_on=(500,)) as one:
            client, peer, _ = await started(one)
            if framing == "sized":
                await peer.send(sized(b"no", SERVER_ERROR))
                status, fields, body = await reply(client)
                assert (status, body) == (500, b"no")
                assert fields[b"x-sglang-router-worker"] == str(one.workers[0].url).encode()
            else:
                raw = b"2\r\nno\r\n0\r\n\r\n"
                await peer.send(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
                assert b" 500 Oops\r\n" in await client.read_head()
                assert await client.read(len(raw)) == raw
            await one.released((0, Result.SERVER_ERROR, 500))

    async def test_nor_is_it_that_another_worker_could_not_be_reached(self) -> None:
        async with world(1, retry_on=(500,)) as two:
            client, peer, _ = await started(two)
            stopped = await two.add_worker()
            stopped.stop()
            await peer.send(sized(b"no", SERVER_ERROR))
            assert (await reply(client))[::2] == (500, b"no")
            await two.released((0, Result.SERVER_ERROR, 500), (1, Result.CONNECT_FAILED, 0))

    async def test_a_failure_and_a_death_share_the_retries(self) -> None:
        async with world(3, retry_on=(500,)) as three:
            client, peer, number = await started(three)
            await peer.send(sized(b"no", SERVER_ERROR))
            second = await three.accept()
            await serve(second)
            other = three.number(second)
            await second.close()
            assert await code(client) == (502, "upstream_died")
            await three.released((number, Result.SERVER_ERROR, 500), (other, Result.DIED, 0))

    async def test_a_body_that_is_not_kept_is_not_sent_again(self) -> None:
        async with world(2, retry_on=(500,), replay_max_bytes=10) as two:
            client, peer, number = await started(two, post(body=b"x" * 11))
            await peer.send(sized(b"no", SERVER_ERROR))
            assert (await reply(client))[::2] == (500, b"no")
            await two.released((number, Result.SERVER_ERROR, 500))


class TestRetryBudget:
    async def refused(self, world: World, requests: int) -> list[Peer]:
        """Let the first worker answer so many requests with an error at once, while a second one is there."""
        clients = [await world.ask(post(body=b"%d" % number)) for number in range(requests)]
        peers = [await world.accept() for _ in clients]
        await world.add_worker()
        for peer in peers:
            await serve(peer, sized(b"no", SERVER_ERROR))
        return clients

    async def test_what_fails_beyond_it_is_told_so_and_the_rest_is_sent_again(self) -> None:
        async with world(1, cap=0, retry_on=(500,), retry_budget_percent=0) as two:
            clients = await self.refused(two, BUDGET_SPARE + 2)
            for _ in range(BUDGET_SPARE):
                await serve(await two.accept(), sized())
            statuses = Counter([(await reply(client))[0] for client in clients])
            assert statuses == {200: BUDGET_SPARE, 500: 2}
            counters = two.plane.counters
            assert (counters.retries, counters.retries_over_budget) == (BUDGET_SPARE, 2)
            ends = [(0, Result.SERVER_ERROR, 500)] * len(clients) + [(1, Result.OK, 200)] * BUDGET_SPARE
            await two.released(*ends)

    async def test_it_is_there_again_when_they_have_ended(self) -> None:
        async with world(1, cap=0, retry_on=(500,), retry_budget_percent=0) as two:
            await self.fail_over(two, BUDGET_SPARE)
            two.fleet.apply(ev.RemovalRequested(two.workers[1].worker_id, force=True))
            await self.fail_over(two, BUDGET_SPARE)
            assert two.plane.counters.retries_over_budget == 0

    async def test_it_grows_with_the_work(self) -> None:
        async with world(1, cap=0, retry_on=(500,), retry_budget_percent=100) as two:
            await self.fail_over(two, 3 * BUDGET_SPARE)
            assert two.plane.counters.retries_over_budget == 0

    async def fail_over(self, world: World, requests: int) -> None:
        clients = await self.refused(world, requests)
        for _ in clients:
            await serve(await world.accept(), sized())
        assert [(await reply(client))[0] for client in clients] == [200] * requests

    async def test_a_death_needs_none(self) -> None:
        async with world(1, cap=0, retry_budget_percent=0) as two:
            clients = [await two.ask(post(body=b"%d" % number)) for number in range(3 * BUDGET_SPARE)]
            peers = [await two.accept() for _ in clients]
            for peer in peers:
                await serve(peer)
            await two.add_worker()
            for peer in peers:
                await peer.close()
            for _ in clients:
                await serve(await two.accept(), sized())
            assert [(await reply(client))[0] for client in clients] == [200] * len(clients)
            assert two.plane.counters.retries_over_budget == 0

    async def test_connections_that_fail_need_none(self) -> None:
        async with world(2, cap=0, retry_budget_percent=0) as two:
            two.workers[0].stop()
            clients = [await two.ask(post()) for _ in range(3 * BUDGET_SPARE)]
            for _ in clients:
                await serve(await two.accept(), sized())
            assert [(await reply(client))[0] for client in clients] == [200] * len(clients)
            assert two.plane.counters.retries > BUDGET_SPARE


class TestStaleConnection:
    async def warm(self, world: World) -> Peer:
        """Leave an idle connection to the only worker that takes work."""
        client, peer, _ = await started(world)
        await peer.send(sized())
        assert (await reply(client))[0] == 200
        await client.close()
        return peer

    async def test_one_that_breaks_in_the_moment_of_use_is_no_death(self, one: World) -> None:
        idle = await self.warm(one)
        client = await one.ask(post(body=b"again"))
        assert (await serve(idle)).endswith(b"again")
        await idle.close()
        fresh = await one.accept()
        assert (await serve(fresh, sized())).endswith(b"again")
        assert (await reply(client))[0] == 200
        await one.released((0, Result.OK, 200), (0, Result.OK, 200))
        assert one.plane.counters.retries == 0

    async def test_a_fresh_one_that_breaks_too_is_a_death(self) -> None:
        async with world(1) as two:
            idle = await self.warm(two)
            client = await two.ask(post())
            await serve(idle)
            await two.add_worker()
            await idle.close()
            fresh = await two.accept()
            assert two.number(fresh) == 0
            await serve(fresh)
            await fresh.close()
            elsewhere = await two.accept()
            assert two.number(elsewhere) == 1
            await serve(elsewhere, sized())
            assert (await reply(client))[0] == 200
            await two.released((0, Result.OK, 200), (0, Result.DIED, 0), (1, Result.OK, 200))

    async def test_a_worker_that_cannot_be_had_again_has_died(self) -> None:
        async with world(1) as two:
            idle = await self.warm(two)
            client = await two.ask(post())
            await serve(idle)
            await two.add_worker()
            two.workers[0].stop()
            await idle.close()
            elsewhere = await two.accept()
            assert two.number(elsewhere) == 1
            await serve(elsewhere)
            await elsewhere.close()
            status, _, body = await reply(client)
            assert status == 502
            assert json.loads(body)["workers"] == [str(worker.url) for worker in two.workers]
            await two.released((0, Result.OK, 200), (0, Result.DIED, 0), (1, Result.DIED, 0))

    async def test_one_that_breaks_later_is_a_death(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request that kills its workers must not go through all of them."""
        monkeypatch.setattr("sglang_diffusion_routing.proxy.work.STALE_S", 0.02)
        async with world(1) as two:
            idle = await self.warm(two)
            client = await two.ask(post())
            await serve(idle)
            sent_s = two.fleet.now_s()
            await eventually(lambda: two.fleet.now_s() > sent_s + 0.03)
            await two.add_worker()
            await idle.close()
            elsewhere = await two.accept()
            assert two.number(elsewhere) == 1
            await serve(elsewhere)
            await elsewhere.close()
            assert await code(client) == (502, "upstream_died")
            await two.released((0, Result.OK, 200), (0, Result.DIED, 0), (1, Result.DIED, 0))

    async def test_a_body_that_is_not_kept_cannot_be_asked_again(self) -> None:
        async with world(1, replay_max_bytes=10) as one:
            idle = await self.warm(one)
            client = await one.ask(post(body=b"x" * 100))
            await serve(idle)
            await idle.close()
            assert await code(client) == (502, "upstream_died")
            await one.released((0, Result.OK, 200), (0, Result.DIED, 0))

    async def test_a_client_that_leaves_in_that_moment_leaves_nothing(self, one: World) -> None:
        idle = await self.warm(one)
        client = await one.ask(post())
        await serve(idle)
        client.reset()
        await idle.close()
        await eventually(lambda: one.in_flight() == [0])
        assert len(one.fleet.ends) == 2
        assert one.fleet.ends[1][1] in {Result.ABANDONED, Result.DIED}


class TestWorkerLost:
    """The pool takes the leases back: a refused probe, a proven death, a forced removal."""

    async def test_while_connecting_the_work_goes_elsewhere(self, unreachable: World) -> None:
        client = await unreachable.ask(post())
        await eventually(lambda: unreachable.in_flight() == [1])
        await unreachable.add_worker()
        unreachable.lose(unreachable.workers[0])
        peer = await unreachable.accept()
        await serve(peer, sized())
        assert (await reply(client))[0] == 200
        await unreachable.released((0, Result.CONNECT_FAILED, 0), (1, Result.OK, 200))

    async def test_while_it_works_the_work_goes_elsewhere(self, two: World) -> None:
        client, peer, number = await started(two, post(body=b"the same"))
        two.lose(two.workers[number])
        second = await two.accept()
        assert (await serve(second, sized())).endswith(b"the same")
        assert (await reply(client))[0] == 200
        await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))
        await peer.is_cut()

    async def test_on_a_reused_connection_it_is_no_stale_one(self, two: World) -> None:
        warm, peer, number = await started(two)
        await peer.send(sized())
        await reply(warm)
        client = await two.ask(post())
        other = None
        if two.in_flight()[number]:
            await serve(peer)
        else:
            other = await two.accept()
            await serve(other, sized())
            await reply(client)
            client = await two.ask(post())
            await eventually(lambda: two.in_flight()[number] == 1)
            await serve(peer)
        two.lose(two.workers[number])
        second = other or await two.accept()
        await serve(second, sized())
        assert (await reply(client))[0] == 200
        assert two.fleet.ends[-2:] == [
            (two.workers[number].worker_id, Result.DIED, 0),
            (two.workers[1 - number].worker_id, Result.OK, 200),
        ]

    async def test_an_upload_under_way_goes_elsewhere_with_what_is_still_to_come(self, two: World) -> None:
        request = post(b"/upload", b"first half" + b"other half")
        client = await two.ask(request[:-10])
        peer = await two.accept()
        await peer.read_head()
        assert await peer.read(10) == b"first half"
        number = two.number(peer)
        two.lose(two.workers[number])
        second = await two.accept()
        await client.send(b"other half")
        assert (await serve(second, sized())).endswith(b"first halfother half")
        assert (await reply(client))[0] == 200

    async def test_the_only_worker_s_loss_is_a_502(self, one: World) -> None:
        client, _, _ = await started(one)
        one.lose(one.workers[0])
        status, _, body = await reply(client)
        assert (status, json.loads(body)["workers"]) == (502, [str(one.workers[0].url)])
        await one.released((0, Result.DIED, 0))

    async def test_while_an_error_is_read_whole_it_is_a_502(self, two: World) -> None:
        client, peer, number = await started(two)
        await peer.send(sized(ASLEEP, SERVER_ERROR)[:-10])
        await turns()
        two.lose(two.workers[number])
        assert await code(client) == (502, "bad_upstream_reply")
        await two.released((number, Result.DIED, 0))

    async def test_in_the_middle_of_a_reply_the_client_is_cut_off(self, two: World) -> None:
        client, peer, number = await started(two)
        await peer.send(sized(b"x" * 100)[:-50])
        await client.read_head()
        two.lose(two.workers[number])
        assert await client.is_cut()
        await two.released((number, Result.DIED, 200))

    async def test_with_nobody_waiting_the_lease_ends(self, two: World) -> None:
        client, peer, number = await started(two)
        await client.close()
        await eventually(lambda: two.plane.counters.orphans == 1)
        two.lose(two.workers[number])
        await two.released((number, Result.DIED, 0))
        await peer.is_cut()

    async def test_work_of_other_workers_goes_on(self, two: World) -> None:
        clients = [await two.ask(post()), await two.ask(post())]
        peers = {two.number(peer): peer for peer in (await two.accept(), await two.accept())}
        for peer in peers.values():
            await serve(peer)
        two.lose(two.workers[0])
        third = await two.accept()
        await serve(third, sized())
        await peers[1].send(sized())
        for client in clients:
            assert (await reply(client))[0] == 200
        assert [end[1] for end in two.fleet.ends].count(Result.OK) == 2


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
        assert one.plane.counters.requests["videos"][2] == 1

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
        assert await code(client) == (502, "bad_upstream_reply")
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
        await eventually(lambda: durable.plane.counters.requests["videos"][2] == 1)
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
        assert one.plane.counters.requests["rollout"] == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]

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


class TestCost:
    """How much work a request is, read from the first bytes of its body."""

    async def spec(self, one: World, request: bytes) -> tuple[Peer, Peer, WorkSpec]:
        client, peer, _ = await started(one, request)
        (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        return client, peer, lease.spec

    async def specs(self, one: World, bodies: list[bytes]) -> list[WorkSpec]:
        """One request after the other, on the same connection to the worker."""
        client, peer, spec = await self.spec(one, post(body=bodies[0]))
        specs = [spec]
        for body in bodies[1:]:
            await peer.send(sized())
            await reply(client)
            client = await one.ask(post(body=body))
            await serve(peer)
            (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
            specs.append(lease.spec)
        await peer.send(sized())
        await reply(client)
        return specs

    @pytest.mark.parametrize(
        ("path", "body", "cost"),
        [
            (b"/rollout/generate", b'{"width":500,"height":1000,"num_inference_steps":10,"guidance_scale":1}', 5.0),
            (b"/generate", b'{"size":"500x1000","num_inference_steps":10,"n":2,"true_cfg_scale":4}', 20.0),
            (b"/v1/videos", b'{"size":"100x100","num_inference_steps":10,"num_frames":5,"guidance_scale":1}', 0.5),
            (b"/v1/images/generations", b'{"prompt":"{","size":"1000x1000","num_inference_steps":1}', 2.0),
        ],
    )
    async def test_it_is_read_from_the_body(self, one: World, path: bytes, body: bytes, cost: float) -> None:
        client, peer, spec = await self.spec(one, post(path, body))
        assert (spec.cost_mpx_steps, spec.cost_known) == (pytest.approx(cost), True)
        await peer.send(sized())
        await reply(client)

    async def test_requests_of_the_same_shape_share_what_is_asked_for(self, one: World) -> None:
        bodies = [b'{"prompt":"%b","width":64,"height":64}' % prompt for prompt in (b"a", b"b")]
        specs = await self.specs(one, bodies)
        assert specs[0] is specs[1]

    async def test_a_body_that_comes_later_than_its_head_is_waited_for(self, one: World) -> None:
        request = post(body=b'{"width":1000,"height":1000,"num_inference_steps":1}')
        client = await one.ask(request[:-60])
        await turns()
        assert one.fleet.scheduler.live_leases == 0
        await client.send(request[-60:])
        await serve(await one.accept())
        (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        assert lease.spec.cost_mpx_steps == pytest.approx(2.0)

    async def test_a_large_body_is_not_waited_for_and_its_cost_is_what_is_usual(self, one: World) -> None:
        one.fleet.scheduler.costs.note("rollout", None, 7.0)
        client = await one.ask(post(body=b'{"prompt":"' + b"x" * 20_000)[:-5000])
        peer = await one.accept()
        await peer.read_head()
        (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        assert (lease.spec.cost_mpx_steps, lease.spec.cost_known) == (pytest.approx(7.0), False)
        await client.close()

    async def test_a_chunked_body_is_read_too(self, one: World) -> None:
        body = b'{"width":1000,"height":1000,"num_inference_steps":1}'
        head = b"POST /rollout/generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await one.ask(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        await (await one.accept()).read_head()
        (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        assert lease.spec.cost_mpx_steps == pytest.approx(2.0)

    async def test_a_client_may_state_it(self, one: World) -> None:
        client, peer, spec = await self.spec(one, post(b"/rollout/generate", b"{}", b"x-sglang-router-cost: 12.5"))
        assert (spec.cost_mpx_steps, spec.cost_known) == (12.5, True)
        await peer.send(sized())
        assert (await reply(client))[0] == 200
        assert await code(await one.ask(post(b"/rollout/generate", b"{}", b"x-sglang-router-cost: much"))) == (
            400,
            "invalid_field",
        )

    async def test_nothing_is_read_of_what_does_not_generate(self, one: World) -> None:
        client = await one.ask(post(b"/other", b'{"width":1000}')[:-1])
        await (await one.accept()).read_head()
        (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        assert not lease.spec.cost_known
        await client.close()

    async def test_the_remembered_shapes_are_bounded(self, one: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sglang_diffusion_routing.proxy.work.MAX_SPECS", 2)
        specs = await self.specs(one, [b'{"width":%d}' % width for width in range(1, 6)])
        assert len({spec.cost_mpx_steps for spec in specs}) == 5
        assert len(one.plane._shared.specs) <= 2

    async def test_the_worker_is_done_when_a_sized_reply_begins(self, one: World) -> None:
        client, peer, _ = await self.spec(one, post())
        (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        await eventually(lambda: one.fleet.now_s() > lease.granted_s)
        await peer.send(sized(b"x" * 10)[:-5])
        await client.read_head()
        assert lease.done_s is not None
        assert lease.granted_s <= lease.done_s <= one.fleet.now_s()
        await peer.send(b"x" * 5)
        assert await client.read(10) == b"x" * 10
        await eventually(lambda: one.fleet.scheduler.live_leases == 0)
        speed = one.fleet.scheduler.speed_of(one.workers[0].worker_id)
        assert speed is not None
        assert speed.confidence == 0.5
