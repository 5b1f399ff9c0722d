"""Traces of requests: which spans there are, where they stand, what they say, and what they never say."""

import pytest

from http1.peers import eventually
from proxy.steps import ASLEEP, copied, started
from proxy.traced import CLIENT_SPAN, CLIENT_TRACE, SAMPLED, UNSAMPLED, parent_in, traced
from proxy.world import get, post, reply, serve, sized
from sglang_diffusion_routing.core.work import JobStatus, Result
from sglang_diffusion_routing.proxy import jobs
from sglang_diffusion_routing.proxy.tracing import shown_group
from sglang_diffusion_routing.spans import Kind

pytestmark = pytest.mark.loopback

PHASES = {"connect": {}, "generate": {}, "relay": {}}


class TestRequest:
    async def test_it_is_a_span_and_its_attempt_stands_below_with_its_phases(self) -> None:
        async with traced() as (one, recorded):
            fields = [b"X-Request-Id: r-1", b"x-sglang-router-cost: 7", b"x-sglang-router-group: prompt-3"]
            client, peer, _ = await started(one, post(b"/rollout/generate?key=1", b"{}", *fields))
            await peer.send(sized(b"done"))
            await reply(client)
            (request,) = await recorded.until("POST /rollout/generate")
            assert recorded.tree() == {"POST /rollout/generate": {"attempt": PHASES}}
            worker = one.workers[0].url
            port = request.attributes["client.port"]
            assert isinstance(port, int)
            assert (request.kind, request.error, dict(request.attributes)) == (
                Kind.SERVER,
                None,
                {
                    "http.request.method": "POST",
                    "http.route": "/rollout/generate",
                    "http.response.status_code": 200,
                    "http.request.body.size": 2,
                    "http.response.body.size": request.attributes["http.response.body.size"],
                    "url.scheme": "http",
                    "url.path": "/rollout/generate",
                    "client.address": "127.0.0.1",
                    "client.port": port,
                    "network.protocol.version": "1.1",
                    "sglang.router.request_id": "r-1",
                    "sglang.router.route": "rollout",
                    "sglang.router.worker": str(worker),
                    "sglang.router.weight_version": "0",
                    "sglang.router.queue_seconds": 0.0,
                    "sglang.router.cost_mpx_steps": 7.0,
                    "sglang.router.attempts": 1,
                    "sglang.router.group": "prompt-3",
                },
            )
            (attempt,) = recorded.named("attempt")
            assert (attempt.kind, attempt.error, dict(attempt.attributes)) == (
                Kind.CLIENT,
                None,
                {
                    "http.request.method": "POST",
                    "http.response.status_code": 200,
                    "server.address": "127.0.0.1",
                    "server.port": worker.port,
                    "sglang.router.worker": str(worker),
                    "sglang.router.attempt": 1,
                    "sglang.router.weight_version": "0",
                    "sglang.router.result": "ok",
                },
            )

    async def test_phases_follow_each_other_without_gaps(self) -> None:
        async with traced() as (one, recorded):
            client, peer, _ = await started(one)
            await peer.send(sized())
            await reply(client)
            (request,) = await recorded.until("POST /rollout/generate")
            (attempt,) = recorded.named("attempt")
            connect, generate, relay = (recorded.named(name)[0] for name in PHASES)
            assert connect.ended_s == generate.began_s
            assert generate.ended_s == relay.began_s
            assert relay.ended_s == attempt.ended_s
            assert request.began_s <= attempt.began_s <= connect.began_s
            assert attempt.ended_s <= request.ended_s

    async def test_a_connection_that_was_there_is_no_phase(self) -> None:
        async with traced() as (one, recorded):
            client, peer, _ = await started(one)
            await peer.send(sized())
            await reply(client)
            await client.send(post())
            await serve(peer, sized())
            await reply(client)
            await recorded.until("attempt", 2)
            assert len(recorded.named("connect")) == 1
            assert len(recorded.named("generate")) == 2

    async def test_what_it_waited_for_a_worker_is_a_phase(self) -> None:
        async with traced(cap=1) as (one, recorded):
            first, peer, _ = await started(one)
            second = await one.ask(post(b"/v1/images/generations"))
            await eventually(lambda: one.fleet.scheduler.queued == 1)
            queued_s = one.fleet.now_s()
            await eventually(lambda: one.fleet.now_s() > queued_s)
            await peer.send(sized())
            await reply(first)
            await serve(peer, sized())
            await reply(second)
            (request,) = await recorded.until("POST /v1/images/generations")
            (queue,) = recorded.named("queue")
            assert queue.parent is not None
            assert queue.parent.span_id == request.context.span_id
            waited_s = request.attributes["sglang.router.queue_seconds"]
            assert waited_s == pytest.approx(queue.ended_s - queue.began_s)
            assert queue.began_s >= request.began_s

    @pytest.mark.parametrize(
        ("request_", "name"),
        [
            (post(b"/v1/images/edits"), "POST /v1/images/edits"),
            (post(b"//v1/./images/edits"), "POST /v1/images/edits"),
            (post(b"/anything/at/all"), "POST"),
            (get(b"/server_info"), "GET"),
        ],
    )
    async def test_its_name_is_one_of_few(self, request_: bytes, name: str) -> None:
        async with traced() as (one, recorded):
            client = await one.ask(request_)
            await serve(await one.accept(), sized())
            await reply(client)
            await recorded.until(name)

    async def test_an_error_of_the_worker_is_its_status(self) -> None:
        async with traced() as (one, recorded):
            client, peer, _ = await started(one)
            await peer.send(sized(b"", b"500 Internal Server Error"))
            await reply(client)
            (request,) = await recorded.until("POST /rollout/generate")
            assert (request.error, request.attributes["error.type"]) == ("500", "500")
            assert recorded.named("attempt")[0].error == "server_error"

    async def test_an_error_of_the_router_is_its_code(self) -> None:
        async with traced() as (one, recorded):
            client, peer, _ = await started(one)
            await peer.drop()
            assert (await reply(client))[0] == 502
            (request,) = await recorded.until("POST /rollout/generate")
            assert (request.error, request.attributes["http.response.status_code"]) == ("upstream_died", 502)
            assert request.attributes["sglang.router.code"] == "upstream_died"
            assert recorded.tree() == {"POST /rollout/generate": {"attempt": {"connect": {}, "generate": {}}}}
            assert recorded.named("attempt")[0].error == "died"

    async def test_no_fault_of_the_client_is_an_error(self) -> None:
        async with traced() as (one, recorded):
            client, peer, _ = await started(one)
            await peer.send(sized(b"", b"422 Unprocessable Entity"))
            await reply(client)
            (request,) = await recorded.until("POST /rollout/generate")
            assert (request.error, "error.type" in request.attributes) == (None, False)

    async def test_a_client_that_leaves_ends_its_span_and_not_the_worker_s(self) -> None:
        async with traced() as (one, recorded):
            client, peer, _ = await started(one)
            await client.drop()
            (request,) = await recorded.until("POST /rollout/generate")
            assert (request.error, recorded.named("attempt")) == ("client_left", [])
            await peer.send(sized())
            (attempt,) = await recorded.until("attempt")
            assert attempt.ended_s > request.ended_s
            assert recorded.tree() == {"POST /rollout/generate": {"attempt": PHASES}}


class TestAttempts:
    async def test_those_of_one_request_are_siblings(self) -> None:
        async with traced(2) as (two, recorded):
            client, peer, number = await started(two)
            await peer.send(sized(ASLEEP, b"500 Internal Server Error"))
            await serve(await two.accept(), sized())
            assert (await reply(client))[0] == 200
            await recorded.until("POST /rollout/generate")
            assert recorded.tree() == {"POST /rollout/generate": {"attempt": PHASES, "attempt'": PHASES}}
            first, second = recorded.named("attempt")
            said = [(one.attributes["sglang.router.attempt"], one.error) for one in (first, second)]
            assert said == [(1, "asleep"), (2, None)]
            (request,) = recorded.named("POST /rollout/generate")
            assert request.attributes["sglang.router.worker"] == str(two.workers[1 - number].url)
            assert request.attributes["sglang.router.attempts"] == 2

    @pytest.mark.parametrize("copy_is_first", [True, False])
    async def test_a_copy_is_one_of_them(self, copy_is_first: bool) -> None:
        async with traced(2, hedge=True) as (two, recorded):
            client, original, copy, number = await copied(two)
            winner, loser = (copy, original) if copy_is_first else (original, copy)
            await winner.send(sized(b"won"))
            assert (await reply(client))[2] == b"won"
            (request,) = await recorded.until("POST /rollout/generate")
            await loser.send(sized(b"lost"))
            attempts = await recorded.until("attempt", 2)
            worker = two.workers[1 - number if copy_is_first else number]
            assert request.attributes["sglang.router.worker"] == str(worker.url)
            parents = {one.parent.span_id for one in attempts if one.parent is not None}
            assert parents == {request.context.span_id}
            hedges = {
                one.attributes["sglang.router.attempt"]: one.attributes.get("sglang.router.hedge") for one in attempts
            }
            assert hedges == {1: None, 2: True}

    async def test_a_job_goes_on_after_the_reply_that_named_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "FIRST_POLL_S", 0.05)
        async with traced() as (one, recorded):
            client, peer, _ = await started(one, post(b"/v1/videos"))
            await peer.send(sized(b'{"id": "video_1", "status": "queued"}'))
            await reply(client)
            (request,) = await recorded.until("POST /v1/videos")
            assert recorded.named("job") == []
            one.jobs.statuses.append(JobStatus.ENDED)
            (job,) = await recorded.until("job")
            await one.released((0, Result.OK, 0))
            assert (job.error, job.attributes["sglang.router.job.kind"]) == (None, "videos")
            assert job.ended_s > request.ended_s
            assert recorded.tree() == {"POST /v1/videos": {"attempt": PHASES, "job": {}}}


class TestTraces:
    async def test_the_client_s_goes_on(self) -> None:
        async with traced(percent=0) as (one, recorded):
            client, peer, _ = await started(one, post(b"/rollout/generate", b"{}", SAMPLED, b"tracestate: a=1"))
            await peer.send(sized())
            await reply(client)
            (request,) = await recorded.until("POST /rollout/generate")
            assert request.parent is not None
            assert f"{request.parent.trace_id:032x}" == CLIENT_TRACE
            assert f"{request.parent.span_id:016x}" == CLIENT_SPAN
            assert {f"{span.context.trace_id:032x}" for span in recorded.spans} == {CLIENT_TRACE}
            assert {span.context.state for span in recorded.spans} == {"a=1"}

    @pytest.mark.parametrize("fields", [[UNSAMPLED], []])
    async def test_what_is_not_sampled_is_not_recorded_and_passes_as_it_came(self, fields: list[bytes]) -> None:
        async with traced(percent=0) as (one, recorded):
            client = await one.ask(post(b"/rollout/generate", b"{}", *fields, b"tracestate: a=1"))
            head = await serve(await one.accept(), sized())
            (parent,) = parent_in(head)
            assert parent.endswith("-00")
            # What a state says is of the parent that it comes with.
            assert (b"\r\ntracestate: a=1\r\n" in head) == bool(fields)
            if fields:
                assert UNSAMPLED.decode() == f"traceparent: {parent}"
            await reply(client)
            await one.released((0, Result.OK, 200))
            assert recorded.spans == []

    @pytest.mark.parametrize("path", ["/health", "/metrics", "/workers"])
    @pytest.mark.parametrize("fields", [[], [SAMPLED]], ids=["alone", "traced"])
    async def test_who_looks_at_the_router_again_and_again_begins_none(self, path: str, fields: list[bytes]) -> None:
        async with traced() as (one, recorded):
            client = await one.ask(get(path.encode(), *fields))
            await serve(await one.accept_control(), sized())
            await reply(client)
            assert [span.name for span in recorded.spans] == [f"GET {path}" for _ in fields]

    async def test_what_changes_the_fleet_does_and_the_control_app_goes_on_with_it(self) -> None:
        async with traced() as (one, recorded):
            client = await one.ask(post(b"/workers/http%3A%2F%2Fw"))
            head = await serve(await one.accept_control(), sized())
            await reply(client)
            (request,) = await recorded.until("POST /workers/{id}")
            assert parent_in(head) == [request.context.header().decode()]


@pytest.mark.parametrize("name", ["prompt-3", "run/7:step.2", "a" * 64])
def test_a_group_that_is_a_name_is_shown(name: str) -> None:
    assert shown_group(name) == name


@pytest.mark.parametrize("name", ["a fox in the snow", "a" * 65, "ein Fuchs im Schnee", "狐"])
def test_a_group_that_may_be_a_prompt_is_shown_as_a_digest(name: str) -> None:
    shown = shown_group(name)
    assert shown.startswith("sha256:")
    assert name not in shown
    assert shown == shown_group(name)


async def test_no_query_key_or_body_is_in_a_span() -> None:
    async with traced() as (one, recorded):
        fields = [b"Authorization: Bearer s3cret", b"Cookie: s3cret", b"x-sglang-router-group: s3cret fox"]
        client, peer, _ = await started(one, post(b"/rollout/generate?token=s3cret", b'{"prompt": "s3cret"}', *fields))
        await peer.send(sized(b"s3cret"))
        await reply(client)
        await recorded.until("POST /rollout/generate")
        assert "s3cret" not in repr([(span.name, span.attributes, span.error) for span in recorded.spans])
