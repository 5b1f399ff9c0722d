"""A worker learns its place in the trace, once and of its own attempt; nothing else about the request changes."""

import pytest

from proxy.steps import ASLEEP, copied, started
from proxy.traced import CLIENT_SPAN, CLIENT_TRACE, SAMPLED, parent_in, traced
from proxy.world import get, post, reply, serve, sized, world
from sglang_diffusion_routing.core.work import Lease, Result
from sglang_diffusion_routing.proxy.observed import kinds, placed
from sglang_diffusion_routing.proxy.work import Work
from sglang_diffusion_routing.spans import TraceContext

pytestmark = pytest.mark.loopback

PLACE = TraceContext(0xABC, 0xDEF)
NAMED = b"traceparent: 00-00000000000000000000000000000abc-0000000000000def-01\r\n\r\n"


@pytest.mark.parametrize("name", [b"traceparent", b"Traceparent", b"TRACEPARENT"])
def test_a_place_is_put_instead_of_what_is_there(name: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\n%b: 00-1\r\nTracestate: v=1\r\n%b:\r\nX: traceparent: 7\r\n\r\n" % (
        name,
        name,
    )
    parent = TraceContext(1, 2)
    kept = b"POST / HTTP/1.1\r\nHost: a\r\nTracestate: v=1\r\nX: traceparent: 7\r\n"
    assert placed(head, PLACE, parent) == kept + NAMED
    assert placed(head, PLACE, None) == kept.replace(b"Tracestate: v=1\r\n", b"") + NAMED


async def test_the_worker_s_parent_is_its_attempt() -> None:
    async with traced() as (one, recorded):
        client = await one.ask(post(b"/rollout/generate", b"{}", SAMPLED, b"tracestate: a=1"))
        head = await serve(await one.accept(), sized())
        await reply(client)
        (attempt,) = await recorded.until("attempt")
        assert parent_in(head) == [attempt.context.header().decode()]
        assert f"{attempt.context.trace_id:032x}" == CLIENT_TRACE
        assert f"{attempt.context.span_id:016x}" != CLIENT_SPAN
        assert b"\r\ntracestate: a=1\r\n" in head


async def test_what_is_no_parent_is_replaced_with_its_state() -> None:
    async with traced() as (one, recorded):
        fields = [b"traceparent: 00-nonsense", b"tracestate: a=1"]
        client = await one.ask(post(b"/rollout/generate", b"{}", *fields))
        head = await serve(await one.accept(), sized())
        await reply(client)
        (attempt,) = await recorded.until("attempt")
        assert parent_in(head) == [attempt.context.header().decode()]
        assert b"tracestate" not in head


async def test_every_worker_has_a_parent_of_its_own() -> None:
    async with traced(2) as (two, recorded):
        client = await two.ask(post())
        heads = [await serve(await two.accept(), sized(ASLEEP, b"500 Internal Server Error"))]
        heads.append(await serve(await two.accept(), sized()))
        await reply(client)
        attempts = await recorded.until("attempt", 2)
        assert [parent_in(head) for head in heads] == [[one.context.header().decode()] for one in attempts]


async def test_so_has_that_of_a_copy() -> None:
    async with traced(2, hedge=True) as (two, recorded):
        client, original, copy, number = await copied(two)
        await copy.send(sized())
        await reply(client)
        await original.send(sized())
        attempts = await recorded.until("attempt", 2)
        assert len({one.context.span_id for one in attempts}) == 2
        await two.released((1 - number, Result.OK, 200), (number, Result.OK, 200))


async def test_a_late_worker_has_its_parent_also_when_another_one_answers() -> None:
    """What is set aside for being late keeps its place, and what answers is told of as the one that did."""
    async with traced(2, timeout_s=0.2, retry_on=("timeout",)) as (two, recorded):
        client, late, number = await started(two)
        other = await two.accept()
        await serve(other, sized(b"other"))
        assert (await reply(client))[2] == b"other"
        (request,) = await recorded.until("POST /rollout/generate")
        assert request.attributes["sglang.router.worker"] == str(two.workers[1 - number].url)
        await late.send(sized())
        await two.released((1 - number, Result.OK, 200), (number, Result.OK, 200))
        assert [one.error for one in await recorded.until("attempt", 2)] == [None, None]


async def test_the_owner_of_a_job_has_the_request_as_its_parent() -> None:
    async with traced() as (one, recorded):
        one.jobs.places["videos", "1"] = one.workers[0].worker_id
        client = await one.ask(get(b"/v1/videos/1/content?x=1"))
        head = await serve(await one.accept(), sized(b"mp4"))
        await reply(client)
        (request,) = await recorded.until("GET /v1/videos/{id}/content")
        assert parent_in(head) == [request.context.header().decode()]
        assert request.attributes["sglang.router.worker"] == str(one.workers[0].url)


async def test_a_tunnel_is_told_of_when_it_ends() -> None:
    async with traced() as (one, recorded):
        upgrade = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: k", b"Sec-WebSocket-Version: 13"]
        client = await one.ask(get(b"/v1/realtime_video/generate", *upgrade))
        peer = await one.accept()
        await peer.read_head()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
        assert recorded.spans == []
        await peer.drop()
        await client.drop()
        (request,) = await recorded.until("GET")
        assert request.attributes["http.response.status_code"] == 101


class Album:
    """Shows no image, but has been asked to."""

    asked = 0

    def collect(self, lease: Lease, weights: str | None, *, is_chunked: bool) -> None:
        self.asked += 1


async def test_work_may_be_told_of_and_shown_at_once() -> None:
    album = Album()
    async with traced(gallery=album) as (one, recorded):
        client, peer, _ = await started(one, post(b"/v1/images/generations"))
        await peer.send(sized())
        await reply(client)
        await recorded.until("POST /v1/images/generations")
        assert album.asked == 1


async def test_nobody_s_wish_costs_nothing() -> None:
    assert kinds(None, None).work is Work
    async with world(1) as one:
        assert one.plane._shared.leases is one.fleet
