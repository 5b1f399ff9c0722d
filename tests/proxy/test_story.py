"""Stories are told once, of each attempt and of the whole, and nothing of them stays behind."""

import pytest
from structlog.testing import capture_logs

from http1.peers import eventually
from proxy.steps import ASLEEP, code, copied, started
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.proxy.story import Stories, Story, Try

pytestmark = pytest.mark.loopback


class Tales:
    """What was told, in turn: (what, of which request, how it is by then)."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.stories: list[Story] = []

    def begun(self, story: Story) -> None:
        self.stories.append(story)
        self.told.append(("begun", story.route.name))

    def tried(self, story: Story, one: Try) -> None:
        self.told.append(("tried", len(story.tries)))

    def given_back(self, story: Story, one: Try) -> None:
        assert one.ended_s is not None
        assert one.result is not None
        self.told.append(("given back", story.tries.index(one) + 1, one.result.name, one.status))

    def ended(self, story: Story) -> None:
        self.told.append(("ended", story.status, None if story.error is None else story.error.code))


async def test_a_request_is_told_from_its_head_to_its_end() -> None:
    tales = Tales()
    async with world(1, tellers=[tales]) as one:
        client, peer, _ = await started(one, post(b"/rollout/generate?x=1", b"{}", b"X-Request-Id: r-1"))
        await peer.send(sized(b"done"))
        await reply(client)
        await one.released((0, Result.OK, 200))
        assert tales.told == [("begun", "rollout"), ("tried", 1), ("given back", 1, "OK", 200), ("ended", 200, None)]
        (story,) = tales.stories
        (attempt,) = story.tries
        assert (story.request_id, story.body_bytes, story.now) == ("r-1", 2, attempt)
        assert attempt.connecting_s is not None
        assert attempt.sent_s is not None
        assert attempt.head_s is not None
        assert attempt.ended_s is not None
        assert (
            story.arrived_s
            <= attempt.lease.granted_s
            <= attempt.connecting_s
            <= attempt.sent_s
            <= attempt.head_s
            <= attempt.ended_s
            <= story.ended_s
        )
        stories = one.plane._stories
        assert isinstance(stories, Stories)
        assert stories._live == {}


async def test_every_worker_that_was_tried_is_told_of() -> None:
    tales = Tales()
    async with world(2, tellers=[tales]) as two:
        client, peer, number = await started(two)
        await peer.send(sized(ASLEEP, b"500 Internal Server Error"))
        other = await two.accept()
        await serve(other, sized())
        assert (await reply(client))[0] == 200
        await two.released((number, Result.ASLEEP, 500), (1 - number, Result.OK, 200))
        assert tales.told == [
            ("begun", "rollout"),
            ("tried", 1),
            ("given back", 1, "ASLEEP", 500),
            ("tried", 2),
            ("given back", 2, "OK", 200),
            ("ended", 200, None),
        ]


async def test_an_error_of_the_router_is_told_with_what_its_client_saw() -> None:
    tales = Tales()
    async with world(1, tellers=[tales]) as one:
        client, peer, _ = await started(one)
        await peer.drop()
        assert await code(client) == (502, "upstream_died")
        await eventually(lambda: len(tales.told) == 4)
        assert tales.told[2:] == [("given back", 1, "DIED", 0), ("ended", 502, "upstream_died")]


async def test_the_story_of_a_client_that_leaves_ends_then_and_its_attempt_when_the_worker_is_done() -> None:
    tales = Tales()
    async with world(1, tellers=[tales]) as one:
        client, peer, _ = await started(one)
        await client.drop()
        await eventually(lambda: len(tales.told) == 3)
        assert tales.told == [("begun", "rollout"), ("tried", 1), ("ended", 0, None)]
        assert tales.stories[0].left_s is not None
        await peer.send(sized())
        await one.released((0, Result.OK, 200))
        assert tales.told[3:] == [("given back", 1, "OK", 200)]


async def test_a_client_that_may_come_back_is_told_of_when_all_is_over() -> None:
    tales = Tales()
    async with world(1, tellers=[tales]) as one:
        request = post(b"/rollout/generate", b"{}", b"Idempotency-Key: k")
        client, peer, _ = await started(one, request)
        await client.drop()
        await eventually(lambda: tales.stories[0].left_s is not None)
        again = await one.ask(request)
        await eventually(lambda: tales.stories[0].left_s is None)
        await peer.send(sized())
        assert (await reply(again))[0] == 200
        await one.released((0, Result.OK, 200))
        assert tales.told[2:] == [("given back", 1, "OK", 200), ("ended", 200, None)]


async def test_a_failure_that_another_attempt_makes_up_for_is_none_of_the_whole() -> None:
    tales = Tales()
    async with world(2, hedge=True, tellers=[tales]) as two:
        client, original, copy, number = await copied(two)
        await original.send(b"this is no HTTP\r\n\r\n")
        await eventually(lambda: two.in_flight()[number] == 0)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))
        assert tales.told[3:] == [("given back", 1, "DIED", 0), ("given back", 2, "OK", 200), ("ended", 200, None)]


async def test_what_nobody_could_deal_with_is_told_with_its_refusal() -> None:
    tales = Tales()
    async with world(1, tellers=[tales]) as one:
        for request, route, status, error in [
            (b"GET / HTTP/1.1\r\n\r\n", "unread", 400, "bad_host"),
            (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "other", 405, "method_not_allowed"),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "unread", 405, "method_not_allowed"),
        ]:
            tales.told.clear()
            client = await one.ask(request)
            status_told, fields, _ = await reply(client)
            assert status_told == status
            assert tales.told == [("begun", route), ("ended", status, error)]
            assert tales.stories[-1].request_id.encode() == fields[b"x-request-id"]


async def test_what_needs_no_lease_is_told_too() -> None:
    tales = Tales()
    async with world(1, tellers=[tales]) as one:
        one.jobs.places["videos", "1"] = one.workers[0].worker_id
        client = await one.ask(get(b"/v1/videos/1"))
        await serve(await one.accept(), sized(b"{}"))
        assert (await reply(client))[0] == 200
        client = await one.ask(get(b"/health"))
        await serve(await one.accept_control(), sized(b"{}", b"503 Service Unavailable"))
        assert (await reply(client))[0] == 503
        assert tales.told == [("begun", "job"), ("ended", 200, None), ("begun", "control"), ("ended", 503, None)]
        worker = tales.stories[0].worker
        assert worker is not None
        assert worker.worker_id == one.workers[0].worker_id


async def test_without_a_teller_no_story_is_kept(one: World) -> None:
    client, peer, _ = await started(one)
    (lease,) = one.fleet.scheduler.leases_of(one.workers[0].worker_id)
    assert type(lease.holder).__name__ == "Work"
    assert one.plane._stories is None
    await peer.send(sized())
    await reply(client)


class Broken(Tales):
    """Fails at whatever it is told."""

    def begun(self, story: Story) -> None:
        raise RuntimeError

    def tried(self, story: Story, one: Try) -> None:
        raise RuntimeError

    def given_back(self, story: Story, one: Try) -> None:
        raise RuntimeError

    def ended(self, story: Story) -> None:
        raise RuntimeError


async def test_what_cannot_be_told_has_been_done_all_the_same() -> None:
    tales = Tales()
    with capture_logs() as lines:
        async with world(1, tellers=[Broken(), tales]) as one:
            client, peer, _ = await started(one)
            await peer.send(sized(b"done"))
            assert (await reply(client))[2] == b"done"
            await one.released((0, Result.OK, 200))
    assert [told[0] for told in tales.told] == ["begun", "tried", "given back", "ended"]
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request_not_told"] * 4
