import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from http1.peers import Peer, eventually, turns
from proxy.steps import code, started
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.limits import QueueLimits
from sglang_diffusion_routing.core.speed import SHORT_S
from sglang_diffusion_routing.core.work import Result, WorkSpec
from sglang_diffusion_routing.proxy.verdict import DOUBT_S

pytestmark = pytest.mark.loopback


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

    @pytest.mark.parametrize(
        ("field", "settings"),
        [(b"X-SGLang-Router-Tenant", {}), (b"X-User", {"tenant_field": "X-User"})],
        ids=["the router's own field", "another field"],
    )
    async def test_tenants_take_turns(self, field: bytes, settings: dict[str, Any]) -> None:
        async with world(1, cap=1, **settings) as one:
            running, peer, _ = await started(one)
            clients = []
            for number, name in enumerate(b"aaab", 1):
                clients.append(await one.ask(post(b"/rollout/generate", b"%c" % name, b"%b: %c" % (field, name))))
                await eventually(lambda number=number: one.fleet.scheduler.queued == number)
            await peer.send(sized())
            assert (await reply(running))[0] == 200
            seen = [await serve(peer, sized()) for _ in clients]
            assert b"".join(request[-1:] for request in seen) == b"abaa"
            assert all((b"x-user" in request.lower()) is bool(settings) for request in seen)
            assert not any(b"x-sglang-router" in request.lower() for request in seen)
            assert [(await reply(client))[0] for client in clients] == [200] * 4
            await one.released(*[(0, Result.OK, 200)] * 5)

    async def test_a_tenant_without_a_name_is_a_400(self, one: World) -> None:
        client = await one.ask(post(b"/rollout/generate", b"{}", b"x-sglang-router-tenant:"))
        assert await code(client) == (400, "invalid_field")

    @pytest.mark.parametrize("newcomer", [(), (b"x-sglang-router-tenant: b",)], ids=["without a name", "with one"])
    async def test_a_full_queue_has_room_for_a_tenant_that_has_less_than_its_share(
        self, newcomer: tuple[bytes, ...]
    ) -> None:
        async with world(1, cap=1, queue=QueueLimits(max_requests=2)) as one:
            running, peer, _ = await started(one)
            flood = []
            for number in (1, 2):
                flood.append(await one.ask(post(b"/rollout/generate", b"{}", b"x-sglang-router-tenant: a")))
                await eventually(lambda number=number: one.fleet.scheduler.queued == number)
            late = await one.ask(post(b"/rollout/generate", b"{}", *newcomer))
            status, fields, body = await reply(flood[1])
            assert (status, json.loads(body)["code"], fields[b"retry-after"]) == (429, "queue_full", b"1")
            assert one.fleet.scheduler.queued == 2
            await peer.send(sized())
            for _ in range(2):
                await serve(peer, sized())
            assert [(await reply(client))[0] for client in (running, flood[0], late)] == [200] * 3
            await one.released(*[(0, Result.OK, 200)] * 3)

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
        # The loop's clock has milliseconds.
        await asyncio.sleep(DOUBT_S + 0.01)
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
        monkeypatch.setattr("sglang_diffusion_routing.proxy.asking.MAX_SPECS", 2)
        specs = await self.specs(one, [b'{"width":%d}' % width for width in range(1, 6)])
        assert len({spec.cost_mpx_steps for spec in specs}) == 5
        assert len(one.plane._shared.specs) <= 2

    async def test_the_worker_is_done_when_a_sized_reply_begins(self, one: World) -> None:
        client, peer, _ = await self.spec(one, post())
        (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
        await eventually(lambda: one.fleet.now_s() >= lease.granted_s + 2 * SHORT_S)
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


def member(value: bytes, body: bytes = b"{}") -> bytes:
    return post(b"/rollout/generate", body, b"x-sglang-router-group: " + value)


class TestGroups:
    async def test_members_go_to_one_worker_and_wait_for_it(self) -> None:
        async with world(2, cap=1) as two:
            first, peer, number = await started(two, member(b"g"))
            second = await two.ask(member(b"g"))
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            assert two.in_flight()[1 - number] == 0
            await peer.send(sized())
            assert (await reply(first))[0] == 200
            assert b"x-sglang-router" not in await serve(peer, sized())
            assert (await reply(second))[0] == 200
            await two.released((number, Result.OK, 200), (number, Result.OK, 200))

    async def test_members_are_spread_when_asked_to(self) -> None:
        async with world(2, cap=3) as two:
            begun = [await started(two, member(b"g;spread")) for _ in range(4)]
            assert sorted(number for _, _, number in begun) == [0, 0, 1, 1]
            for client, peer, _ in begun:
                await peer.send(sized())
                assert (await reply(client))[0] == 200

    async def test_a_member_that_its_worker_failed_takes_its_group_along(self) -> None:
        async with world(2, cap=1) as two:
            first, peer, number = await started(two, member(b"g", b"1"))
            second = await two.ask(member(b"g", b"2"))
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            two.lose(two.workers[number])
            again = await two.accept()
            assert two.number(again) == 1 - number
            # What waited is there before what has to be sent once more.
            assert (await serve(again, sized()))[-1:] == b"2"
            assert (await reply(second))[0] == 200
            assert (await serve(again, sized()))[-1:] == b"1"
            assert (await reply(first))[0] == 200
            peer.reset()

    async def test_a_job_goes_where_its_group_is(self) -> None:
        async with world(2, cap=1) as two:
            first, peer, number = await started(two, member(b"g"))
            video = post(b"/v1/videos", b"{}", b"x-sglang-router-group: g")
            job, other, at = await started(two, video)
            assert at == number
            await other.send(sized(b'{"error": "no"}', b"400 Bad Request"))
            assert (await reply(job))[0] == 400
            await peer.send(sized())
            assert (await reply(first))[0] == 200

    @pytest.mark.parametrize("value", [b"", b";spread", b"g;keep", b"g;spread;spread", b"g" * 257])
    async def test_a_group_that_is_none_is_a_400_that_names_the_field(self, one: World, value: bytes) -> None:
        client = await one.ask(member(value))
        status, _, body = await reply(client)
        facts = json.loads(body)
        assert (status, facts["code"], facts["field"]) == (400, "invalid_field", "x-sglang-router-group")


ONCE = sized(b"ok", b"200 OK", b"connection: close")
SAME = b'{"prompt": "a cat", "seed": 42, "size": "64x64"}'
WRITTEN_OTHERWISE = b'{"seed":42,"prompt":"a \\u0063at","n":1}'


class TestConsistentHash:
    async def place(self, its: World, request: bytes) -> int:
        client, peer, number = await started(its, request)
        await peer.send(ONCE)
        assert (await reply(client))[0] == 200
        return number

    async def test_the_same_prompt_and_seed_go_to_the_same_worker(self) -> None:
        async with world(4, cap=1, routing_algorithm="consistent-hash") as its:
            asked = [post(b"/rollout/generate", b'{"prompt":"a cat","seed":%d}' % seed) for seed in range(12)]
            first = [await self.place(its, request) for request in asked]
            assert len(set(first)) > 1
            assert [await self.place(its, request) for request in reversed(asked)] == first[::-1]
            same = {await self.place(its, post(b"/rollout/generate", body)) for body in (SAME, WRITTEN_OTHERWISE)}
            assert same == {await self.place(its, post(b"/v1/images/generations", SAME))}

    async def test_a_body_that_comes_in_small_chunks_is_the_same(self) -> None:
        async with world(4, cap=1, routing_algorithm="consistent-hash") as its:
            body = b'{"prompt": "' + b"x" * 9_000 + b'"}'
            place = await self.place(its, post(b"/rollout/generate", body))
            head = b"POST /rollout/generate HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            chunks = [b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7)]
            client = await its.ask(head)
            for at in range(0, len(chunks), 100):
                await client.send(b"".join(chunks[at : at + 100]))
                await turns()
            await client.send(b"0\r\n\r\n")
            peer = await its.accept()
            await serve(peer)
            assert its.number(peer) == place
            await peer.send(ONCE)
            assert (await reply(client))[0] == 200

    async def test_a_request_of_which_there_is_more_to_see_is_waited_for(self) -> None:
        async with world(2, routing_algorithm="consistent-hash") as its:
            head = b"POST /anything HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(SAME)
            client = await its.ask(head, SAME[:9])
            await turns()
            assert its.in_flight() == [0, 0]
            await client.send(SAME[9:])
            peer = await its.accept()
            await serve(peer, sized())
            assert (await reply(client))[0] == 200

    async def test_other_policies_do_not_read_the_prompt(self, one: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(*_: object, **__: object) -> bytes:
            raise AssertionError("the prompt was read")

        monkeypatch.setattr("sglang_diffusion_routing.proxy.asking.digest_of", read)
        client, peer, _ = await started(one, post(b"/rollout/generate", SAME))
        await peer.send(sized())
        assert (await reply(client))[0] == 200
