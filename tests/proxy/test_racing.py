"""Work that is under way twice: leases end once each, and the client has one reply, whatever happens when."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from http1.peers import Peer, eventually, soon, turns
from proxy.steps import (
    ASLEEP,
    BODY,
    HUGE,
    SERVER_ERROR,
    UnreachableWorker,
    code,
    copied,
    counts,
    make_known,
    seeded,
    started,
)
from proxy.world import World, post, reply, serve, sized, world
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.retry import BUDGET_SPARE
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.errors import Aborted
from sglang_diffusion_routing.proxy.hedging import copy_stragglers
from sglang_diffusion_routing.settings import TIMEOUT, OnDisconnect

pytestmark = pytest.mark.loopback

KEY = b"Idempotency-Key: k-1"


@pytest.fixture
async def two() -> AsyncIterator[World]:
    async with world(2, hedge=True) as two:
        yield two


class TestCopy:
    async def test_the_copy_may_be_first_and_the_worker_of_the_original_stays_charged(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await copy.send(sized(b"copy"))
        status, fields, body = await reply(client)
        assert (status, body) == (200, b"copy")
        assert fields[b"x-sglang-router-worker"] == two.workers[1 - number].worker_id.encode()
        assert two.in_flight()[number] == 1
        assert two.in_flight()[1 - number] == 0
        await original.send(sized(b"original"))
        await two.released((1 - number, Result.OK, 200), (number, Result.OK, 200))
        assert counts(two) == (1, 1, 0)
        # The client's connection and both workers' serve what comes next.
        await client.send(post())
        assert two.accepted.empty()

    async def test_the_original_may_be_first_and_the_worker_of_the_copy_stays_charged(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"
        assert two.in_flight()[1 - number] == 1
        await copy.send(sized(b"copy"))
        await two.released((number, Result.OK, 200), (1 - number, Result.OK, 200))
        assert counts(two) == (1, 0, 0)

    async def test_the_copy_is_the_same_request(self, two: World) -> None:
        client = await two.ask(seeded(b"X-Request-Id: r-7"))
        original = await two.accept()
        first = await serve(original)
        make_known(two, two.number(original))
        copy_stragglers(two.plane._shared)
        copy = await two.accept()
        second = await serve(copy, sized())
        different = {b"Host", b"traceparent"}
        lines = [
            [line for line in raw.split(b"\r\n") if line.split(b":")[0] not in different] for raw in (first, second)
        ]
        assert lines[0] == lines[1]
        traces = [raw.partition(b"traceparent: ")[2].split(b"-")[1:3] for raw in (first, second)]
        assert traces[0][0] == traces[1][0]
        assert traces[0][1] != traces[1][1]
        assert (await reply(client))[0] == 200
        await original.send(sized())

    @pytest.mark.parametrize(
        "request_",
        [
            seeded(body=b'{"prompt": "x"}'),
            post(b"/v1/videos", BODY, HUGE),
            seeded(b"x-sglang-router-group: g"),
            seeded(body=b'{"seed": 7, "prompt": "%b"}' % (b"x" * 200)),
        ],
        ids=["no seed", "a job", "a group", "a body that is not kept"],
    )
    async def test_some_work_has_none(self, request_: bytes) -> None:
        async with world(2, hedge=True, replay_max_bytes=150) as two:
            client, original, number = await started(two, request_)
            make_known(two, number)
            copy_stragglers(two.plane._shared)
            await turns(100)
            assert two.in_flight()[1 - number] == 0
            await original.send(sized())
            assert (await reply(client))[0] == 200

    async def test_nor_has_work_that_is_pinned(self, two: World) -> None:
        pin = b"x-sglang-router-worker: " + two.workers[0].worker_id.encode()
        client, original, number = await started(two, seeded(pin))
        make_known(two, number)
        copy_stragglers(two.plane._shared)
        assert two.in_flight() == [1, 0]
        await original.send(sized())
        assert (await reply(client))[0] == 200

    async def test_nor_what_is_copied_already_or_answered(self) -> None:
        async with world(3, hedge=True) as three:
            client, original, copy, number = await copied(three)
            copy_stragglers(three.plane._shared)
            assert sum(three.in_flight()) == 2
            await original.send(sized(b"x" * 10)[:-5])
            await client.read_head()
            await copy.send(sized())
            await eventually(lambda: sum(three.in_flight()) == 1)
            copy_stragglers(three.plane._shared)
            assert sum(three.in_flight()) == 1
            await original.send(b"x" * 5)
            await client.read(10)
            await three.released((three.number(copy), Result.OK, 200), (number, Result.OK, 200))

    async def test_nor_what_nobody_wants(self, two: World) -> None:
        client, original, number = await started(two, seeded())
        make_known(two, number)
        await client.close()
        await eventually(lambda: two.plane.counters.orphans_now == 1)
        copy_stragglers(two.plane._shared)
        assert sum(two.in_flight()) == 1
        await original.send(sized())

    async def test_nor_what_was_begun_on_weights_that_its_worker_has_no_more(self, two: World) -> None:
        client, original, number = await started(two, seeded())
        make_known(two, number)
        for worker in two.workers:
            two.load(worker, "v1")
        copy_stragglers(two.plane._shared)
        assert two.in_flight()[1 - number] == 0
        await original.send(sized())
        assert (await reply(client))[0] == 200

    async def test_nor_any_while_the_queue_is_held(self, two: World) -> None:
        client, original, number = await started(two, seeded())
        make_known(two, number)
        two.fleet.pause()
        copy_stragglers(two.plane._shared)
        assert two.in_flight()[1 - number] == 0
        await original.send(sized())
        assert (await reply(client))[0] == 200

    async def test_there_is_a_budget_until_both_are_done(self) -> None:
        async with world(4, hedge=True) as four:
            client, original, copy, _ = await copied(four)
            other = await four.ask(seeded())
            running = await four.accept()
            await serve(running)
            make_known(four, four.number(running))
            copy_stragglers(four.plane._shared)
            await copy.send(sized())
            assert (await reply(client))[0] == 200
            copy_stragglers(four.plane._shared)
            assert counts(four)[0] == 1
            await original.send(sized())
            await eventually(lambda: sum(four.in_flight()) == 1)
            copy_stragglers(four.plane._shared)
            assert counts(four)[0] == 2
            await serve(await four.accept(), sized(b"copy"))
            assert (await reply(other))[2] == b"copy"
            await running.send(sized())

    async def test_the_weights_it_was_made_on_are_told(self, two: World) -> None:
        for worker in two.workers:
            two.load(worker, "v1")
        client, original, copy, number = await copied(two)
        two.load(two.workers[number], "v2")
        await copy.send(sized())
        assert (await reply(client))[1][b"x-sglang-router-weight-version"] == b"v1"
        await original.send(sized())

    async def test_a_long_reply_of_a_copy_is_relayed(self, two: World) -> None:
        client, original, copy, _ = await copied(two)
        await copy.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert b"Transfer-Encoding: chunked" in await client.read_head()
        assert await client.read(10) == b"5\r\nhello\r\n"
        await copy.send(b"0\r\n\r\n")
        assert await client.read(5) == b"0\r\n\r\n"
        await original.send(sized())

    async def test_a_client_of_http_1_0_gets_no_chunks_from_it(self, two: World) -> None:
        client, original, copy, _ = await copied(two, seeded().replace(b"HTTP/1.1", b"HTTP/1.0"))
        await copy.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        assert (await client.read_to_end()).endswith(b"\r\n\r\nhello")
        await original.send(sized())


class TestFailures:
    async def test_the_copy_takes_the_place_of_an_original_whose_worker_dies(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await original.close()
        await eventually(lambda: two.in_flight()[number] == 0)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))
        assert counts(two) == (1, 1, 1)

    async def test_a_copy_whose_worker_dies_costs_nothing(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await copy.close()
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"
        await two.released((1 - number, Result.DIED, 0), (number, Result.OK, 200))

    @pytest.mark.parametrize("copy_first", [True, False])
    async def test_two_deaths_are_a_502_that_names_both_and_go_no_further(self, copy_first: bool) -> None:
        async with world(3, hedge=True) as three:
            client, original, copy, _ = await copied(three)
            dying = [copy, original] if copy_first else [original, copy]
            await dying[0].close()
            await eventually(lambda: sum(three.in_flight()) == 1)
            await dying[1].close()
            status, _, body = await reply(client)
            assert status == 502
            for peer in (original, copy):
                assert str(three.workers[three.number(peer)].url).encode() in body
            assert three.accepted.empty()

    @pytest.mark.parametrize("status", [SERVER_ERROR, b"502 Bad Gateway", b"503 Unavailable"])
    async def test_an_error_of_the_original_s_is_outdone_by_the_copy(self, two: World, status: bytes) -> None:
        client, original, copy, number = await copied(two)
        await original.send(sized(b"no", status))
        await eventually(lambda: two.in_flight()[number] == 0)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[::2] == (200, b"copy")
        await two.released((number, Result.SERVER_ERROR, int(status[:3])), (1 - number, Result.OK, 200))

    async def test_so_is_one_that_sleeps(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await original.send(sized(ASLEEP, SERVER_ERROR))
        await eventually(lambda: two.in_flight()[number] == 0)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[::2] == (200, b"copy")
        await two.released((number, Result.ASLEEP, 500), (1 - number, Result.OK, 200))

    @pytest.mark.parametrize("status", [b"500 Oops", b"502 Bad Gateway"])
    async def test_an_error_of_the_copy_s_is_not_passed_on(self, two: World, status: bytes) -> None:
        client, original, copy, number = await copied(two)
        await copy.send(sized(b"no", status))
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"
        await two.released((1 - number, Result.SERVER_ERROR, int(status[:3])), (number, Result.OK, 200))

    async def test_no_worker_has_the_same_work_twice(self) -> None:
        async with world(2, hedge=True, retries=8, retry_on=(500,)) as two:
            client, original, copy, number = await copied(two)
            await original.send(sized(b"no", SERVER_ERROR))
            await eventually(lambda: two.in_flight()[number] == 0)
            await copy.close()
            assert await code(client) == (502, "upstream_died")
            await two.released((number, Result.SERVER_ERROR, 500), (1 - number, Result.DIED, 0))

    async def test_two_errors_are_the_last_one(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await original.send(sized(b"first", SERVER_ERROR))
        await eventually(lambda: two.in_flight()[number] == 0)
        await copy.send(sized(b"second", SERVER_ERROR))
        assert (await reply(client))[::2] == (500, b"second")
        await two.released((number, Result.SERVER_ERROR, 500), (1 - number, Result.SERVER_ERROR, 500))

    async def test_an_error_and_a_death_are_the_error(self, two: World) -> None:
        client, original, copy, _ = await copied(two)
        await copy.close()
        await eventually(lambda: sum(two.in_flight()) == 1)
        await original.send(sized(b"no", SERVER_ERROR))
        assert (await reply(client))[::2] == (500, b"no")

    async def test_half_an_error_of_the_original_s_is_overtaken(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await original.send(sized(ASLEEP, SERVER_ERROR)[:-9])
        await turns(100)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        await original.send(ASLEEP[-9:])
        await two.released((1 - number, Result.OK, 200), (number, Result.ASLEEP, 500))

    async def test_an_answer_of_the_client_s_fault_is_an_answer(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await copy.send(sized(b"bad", b"400 Bad Request"))
        assert (await reply(client))[::2] == (400, b"bad")
        await original.send(sized())
        await two.released((1 - number, Result.OK, 400), (number, Result.OK, 200))

    async def test_what_is_not_http_is_outdone_by_the_other(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await original.send(b"junk\r\n\r\n")
        await eventually(lambda: two.in_flight()[number] == 0)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))

    async def test_a_copy_that_is_not_http_costs_nothing(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await copy.send(b"junk\r\n\r\n")
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"

    @pytest.mark.parametrize("which", ["original", "copy"])
    async def test_a_worker_that_is_lost_leaves_the_other(self, two: World, which: str) -> None:
        client, original, copy, number = await copied(two)
        lost = number if which == "original" else 1 - number
        two.lose(two.workers[lost])
        left = copy if which == "original" else original
        await left.send(sized(b"left"))
        assert (await reply(client))[2] == b"left"
        await two.released((lost, Result.DIED, 0), (1 - lost, Result.OK, 200))

    async def test_a_copy_that_cannot_be_sent_costs_nothing(self, two: World) -> None:
        client, original, number = await started(two, seeded())
        make_known(two, number)
        two.workers[1 - number].stop()
        copy_stragglers(two.plane._shared)
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"
        await two.released((1 - number, Result.CONNECT_FAILED, 0), (number, Result.OK, 200))

    async def test_when_neither_the_original_nor_its_copy_is_left_the_next_worker_is_asked(self) -> None:
        unreachable = UnreachableWorker()
        async with world(1, hedge=True) as three:
            client, original, _ = await started(three, seeded())
            gone = await three.add_worker(started=unreachable.worker)
            make_known(three, 0)
            copy_stragglers(three.plane._shared)
            assert three.in_flight() == [1, 1]
            await original.close()
            await eventually(lambda: three.in_flight() == [0, 1])
            await three.add_worker()
            three.lose(gone)
            third = await three.accept()
            assert three.number(third) == 2
            await serve(third, sized(b"third"))
            assert (await reply(client))[2] == b"third"
            await three.released((0, Result.DIED, 0), (1, Result.CONNECT_FAILED, 0), (2, Result.OK, 200))
        unreachable.close()

    async def test_a_copy_that_is_sent_when_its_original_is_gone_takes_its_place(self) -> None:
        unreachable = UnreachableWorker()
        async with world(1, hedge=True, retries=0) as two:
            client, original, _ = await started(two, seeded())
            await two.add_worker(started=unreachable.worker)
            make_known(two, 0)
            copy_stragglers(two.plane._shared)
            await original.close()
            await eventually(lambda: two.in_flight() == [0, 1])
            two.lose(unreachable.worker)
            assert await code(client) == (502, "upstream_died")
            await two.released((0, Result.DIED, 0), (1, Result.CONNECT_FAILED, 0))
        unreachable.close()

    async def test_what_the_next_process_answers_is_not_passed_on(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        worker = two.workers[1 - number]
        two.fleet.apply(ev.SentinelEnded(worker.worker_id, two.record(worker).incarnation))
        await copy.send(sized(b"of a stranger"))
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await original.send(sized(b"original"))
        assert (await reply(client))[2] == b"original"


class TestClients:
    async def test_one_that_leaves_leaves_both_at_their_work(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await client.close()
        await eventually(lambda: two.plane.counters.orphans_now == 1)
        assert two.in_flight() == [1, 1]
        await copy.send(sized())
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await original.send(sized())
        await two.released((1 - number, Result.OK, 200), (number, Result.OK, 200))

    @pytest.mark.parametrize("first", ["original", "copy"])
    async def test_one_that_comes_back_gets_the_first_of_both(self, two: World, first: str) -> None:
        client, original, copy, _ = await copied(two, seeded(KEY))
        await client.close()
        await eventually(lambda: two.plane.counters.orphans_now == 1)
        again = await two.ask(seeded(KEY))
        await eventually(lambda: two.plane.counters.orphans_now == 0)
        peers = {"original": original, "copy": copy}
        await peers.pop(first).send(sized(first.encode()))
        assert (await reply(again))[2] == first.encode()
        await peers.popitem()[1].send(sized())

    async def test_one_that_comes_back_when_only_the_copy_is_left_gets_that(self, two: World) -> None:
        client, original, copy, number = await copied(two, seeded(KEY))
        await original.close()
        await eventually(lambda: two.in_flight()[number] == 0)
        await client.close()
        await eventually(lambda: two.plane.counters.orphans_now == 1)
        again = await two.ask(seeded(KEY))
        await eventually(lambda: two.plane.counters.orphans_now == 0)
        await copy.send(sized(b"copy"))
        assert (await reply(again))[2] == b"copy"
        await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))

    async def test_all_that_have_joined_get_the_copy_s_reply_once(self, two: World) -> None:
        client, original, copy, _ = await copied(two, seeded(KEY))
        repeat = await two.ask(seeded(KEY))
        await turns(100)
        await copy.send(sized(b"copy"))
        for each in (client, repeat):
            assert (await reply(each))[2] == b"copy"
        # The key is free, though the original runs on.
        later = await two.ask(seeded(KEY))
        await serve(copy, sized(b"anew"))
        assert (await reply(later))[2] == b"anew"
        await original.send(sized())

    async def test_an_engine_that_does_stop_is_told_when_it_has_lost(self) -> None:
        async with world(2, hedge=True, on_disconnect=OnDisconnect.CANCEL) as two:
            client, original, copy, number = await copied(two)
            await copy.send(sized(b"copy"))
            assert (await reply(client))[2] == b"copy"
            await two.released((number, Result.ABANDONED, 0), (1 - number, Result.OK, 200))
            await original.is_cut()

    async def test_the_wait_for_the_one_that_lost_has_an_end(self) -> None:
        async with world(2, hedge=True, orphan_timeout_s=0.1) as two:
            client, _, copy, number = await copied(two)
            await copy.send(sized(b"copy"))
            assert (await reply(client))[2] == b"copy"
            await two.released((1 - number, Result.OK, 200), (number, Result.ABANDONED, 0))

    async def test_a_reply_nobody_wants_is_not_read_when_its_length_is_known(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        await original.send(sized(b"x" * 100_000)[:-1])
        await two.released((1 - number, Result.OK, 200), (number, Result.OK, 200))

    async def test_one_of_unknown_length_is_read_to_its_end(self, two: World) -> None:
        client, original, copy, number = await copied(two)
        await copy.send(sized(b"copy"))
        assert (await reply(client))[2] == b"copy"
        await original.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await turns(100)
        assert two.in_flight()[number] == 1
        await original.send(b"0\r\n\r\n")
        await two.released((1 - number, Result.OK, 200), (number, Result.OK, 200))

    @pytest.mark.parametrize("answered", [True, False])
    async def test_the_end_of_the_router_ends_both(self, two: World, answered: bool) -> None:
        client, _, copy, _ = await copied(two)
        if answered:
            await copy.send(sized(b"copy"))
            assert (await reply(client))[2] == b"copy"
        await two.plane.close()
        await eventually(lambda: two.in_flight() == [0, 0])


async def late(two: World, *fields: bytes, path: bytes = b"/rollout/generate") -> tuple[Peer, Peer, Peer, int]:
    """Have a worker be late, so that the other one gets the work as well."""
    client, first, number = await started(two, post(path, BODY, *fields))
    second = await two.accept()
    assert two.number(second) != number
    await serve(second)
    return client, first, second, number


class TestLate:
    """`--retry-on timeout`."""

    @pytest.fixture
    async def two(self) -> AsyncIterator[World]:
        async with world(2, timeout_s=0.1, retry_on=(TIMEOUT,)) as two:
            yield two

    async def test_another_worker_gets_the_work_and_the_first_stays_charged(self, two: World) -> None:
        client, first, second, number = await late(two)
        await second.send(sized(b"second"))
        assert (await reply(client))[2] == b"second"
        assert two.in_flight()[number] == 1
        await first.send(sized(b"first"))
        await two.released((1 - number, Result.OK, 200), (number, Result.OK, 200))
        assert counts(two) == (0, 0, 1)

    async def test_the_late_answer_counts_if_it_is_the_first(self, two: World) -> None:
        client, first, second, number = await late(two)
        await first.send(sized(b"first"))
        status, fields, body = await reply(client)
        assert (status, body) == (200, b"first")
        assert fields[b"x-sglang-router-worker"] == two.workers[number].worker_id.encode()
        assert two.in_flight()[1 - number] == 1
        await second.send(sized())
        await two.released((number, Result.OK, 200), (1 - number, Result.OK, 200))

    async def test_two_that_are_late_are_a_504_and_both_stay_charged(self, two: World) -> None:
        client, first, second, number = await late(two)
        assert await code(client) == (504, "upstream_timeout")
        assert two.in_flight() == [1, 1]
        await first.send(sized())
        await eventually(lambda: two.in_flight()[number] == 0)
        await second.send(sized())
        await two.released((number, Result.OK, 200), (1 - number, Result.OK, 200))

    async def test_it_goes_elsewhere_once(self) -> None:
        async with world(3, timeout_s=0.1, retry_on=(TIMEOUT,), retries=8) as three:
            client, first, second, _ = await late(three)
            assert await code(client) == (504, "upstream_timeout")
            assert three.accepted.empty()
            for peer in (first, second):
                await peer.send(sized())

    async def test_nor_is_it_sent_to_a_third_when_the_first_is_over(self) -> None:
        async with world(3, timeout_s=0.2, retry_on=(TIMEOUT,), retries=8) as three:
            client, first, second, number = await late(three)
            await first.close()
            await eventually(lambda: three.in_flight()[number] == 0)
            assert await code(client) == (504, "upstream_timeout")
            assert three.accepted.empty()
            await second.send(sized())

    async def test_the_late_answer_counts_while_the_other_worker_is_being_connected_to(self) -> None:
        unreachable = UnreachableWorker()
        async with world(1, timeout_s=0.1, retry_on=(TIMEOUT,)) as two:
            client, first, _ = await started(two, post(b"/rollout/generate", BODY))
            await two.add_worker(started=unreachable.worker)
            await eventually(lambda: two.in_flight() == [1, 1])
            await first.send(sized(b"first"))
            assert (await reply(client))[2] == b"first"
            await two.released((1, Result.ABANDONED, 0), (0, Result.OK, 200))
        unreachable.close()

    async def test_without_another_worker_it_is_a_504_as_ever(self) -> None:
        async with world(1, timeout_s=0.1, retry_on=(TIMEOUT,)) as one:
            client, peer, _ = await started(one, post(b"/rollout/generate", BODY, KEY))
            assert await code(client) == (504, "upstream_timeout")
            assert one.in_flight() == [1]
            again = await one.ask(post(b"/rollout/generate", BODY, KEY))
            await turns(100)
            await peer.send(sized(b"late"))
            assert (await reply(again))[2] == b"late"
            await one.released((0, Result.OK, 200))

    @pytest.mark.parametrize(
        "request_",
        [post(b"/v1/videos", BODY), post(body=b"x" * 200), post(b"/rollout/generate", BODY, b"%b")],
        ids=["a job", "a body that is not kept", "pinned"],
    )
    async def test_some_work_goes_nowhere_else(self, request_: bytes) -> None:
        async with world(2, timeout_s=0.1, retry_on=(TIMEOUT,), replay_max_bytes=150) as two:
            pin = b"x-sglang-router-worker: " + two.workers[0].worker_id.encode()
            client, peer, _ = await started(two, request_.replace(b"\r\n%b\r\n", b"\r\n" + pin + b"\r\n"))
            assert await code(client) == (504, "upstream_timeout")
            assert sum(two.in_flight()) == 1
            assert two.plane.counters.retries == 0
            await peer.send(sized())

    async def test_it_needs_the_budget(self) -> None:
        flags = {"timeout_s": 1.0, "retry_on": (TIMEOUT,), "retry_budget_percent": 0}
        async with world(1, cap=0, **flags) as two:
            clients = [await two.ask(post(body=b"%d" % number)) for number in range(BUDGET_SPARE + 2)]
            peers = [await two.accept() for _ in clients]
            for peer in peers:
                await serve(peer)
            await two.add_worker()
            others = [await two.accept() for _ in range(BUDGET_SPARE)]
            await eventually(lambda: two.plane.counters.retries_over_budget == 2)
            for peer in others:
                await serve(peer, sized())
            statuses = [(await reply(client))[0] for client in clients]
            assert sorted(statuses) == [200] * BUDGET_SPARE + [504] * 2
            for peer in peers:
                await peer.send(sized())

    async def test_the_late_answer_counts_while_another_worker_is_waited_for(self) -> None:
        async with world(1, timeout_s=0.1, retry_on=(TIMEOUT,)) as two:
            client, first, _ = await started(two, post(b"/rollout/generate", BODY))
            two.fleet.pause()
            await two.add_worker()
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            await first.send(sized(b"first"))
            assert (await reply(client))[2] == b"first"
            await two.released((0, Result.OK, 200))

    async def test_what_is_dropped_from_the_queue_meanwhile_is_dropped(self) -> None:
        async with world(1, cap=1, timeout_s=0.1, retry_on=(TIMEOUT,)) as two:
            client, first, _ = await started(two, post(b"/rollout/generate", BODY))
            two.fleet.pause()
            await two.add_worker()
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            two.fleet.drop_queued(Aborted())
            assert await code(client) == (499, "aborted")
            assert two.in_flight() == [1, 0]
            await first.send(sized())

    async def test_a_client_that_leaves_the_queue_finds_the_late_answer_when_it_comes_back(self) -> None:
        async with world(1, cap=1, timeout_s=0.1, retry_on=(TIMEOUT,)) as two:
            client, first, _ = await started(two, post(b"/rollout/generate", BODY, KEY))
            two.fleet.pause()
            await two.add_worker()
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            await client.close()
            await eventually(lambda: two.plane.counters.orphans_now == 1)
            assert two.fleet.scheduler.queued == 0
            again = await two.ask(post(b"/rollout/generate", BODY, KEY))
            await turns(100)
            await first.send(sized(b"first"))
            assert (await reply(again))[2] == b"first"
            await two.released((0, Result.OK, 200))

    async def test_the_second_worker_s_death_leaves_the_first(self, two: World) -> None:
        client, first, second, number = await late(two)
        await second.close()
        await eventually(lambda: two.in_flight()[1 - number] == 0)
        await first.send(sized(b"first"))
        assert (await reply(client))[2] == b"first"
        await two.released((1 - number, Result.DIED, 0), (number, Result.OK, 200))

    async def test_a_copy_that_runs_already_is_the_other_worker_s_attempt(self) -> None:
        async with world(3, hedge=True, timeout_s=0.3, retry_on=(TIMEOUT,)) as three:
            client, original, copy, _ = await copied(three)
            began_s = three.fleet.now_s()
            await eventually(lambda: three.fleet.now_s() > began_s + 0.4)
            assert sum(three.in_flight()) == 2
            await copy.send(sized(b"copy"))
            assert (await reply(client))[2] == b"copy"
            await original.send(sized())

    async def test_the_time_of_two_that_race_is_that_of_the_first(self) -> None:
        async with world(2, hedge=True, timeout_s=0.2) as two:
            client, original, copy, _ = await copied(two, seeded(KEY))
            assert await code(client) == (504, "upstream_timeout")
            assert two.in_flight() == [1, 1]
            again = await two.ask(seeded(KEY))
            await turns(100)
            await copy.send(sized(b"copy"))
            assert (await reply(again))[2] == b"copy"
            await original.send(sized())


WAYS = {
    "ok": sized(b"whole"),
    "error": sized(b"no", SERVER_ERROR),
    "asleep": sized(ASLEEP, SERVER_ERROR),
    "half": sized(b"whole")[:-2],
    "junk": b"junk\r\n\r\n",
    "silence": b"",
}


async def end(two: World, peer: Peer, at: int, rng: random.Random) -> None:
    """Let an attempt end, one way or another."""
    how = rng.choice([*WAYS, "lost"])
    if how == "lost":
        two.lose(two.workers[at])
        return
    await peer.send(WAYS[how])
    if how in {"half", "silence"}:
        await turns(rng.choice([0, 50]))
        await (peer.close() if rng.random() < 0.5 else peer.drop())


async def replies(client: Peer) -> int:
    """Count what comes until the connection ends."""
    seen = b""
    with suppress(ConnectionResetError):
        while more := await client.reader.read(65536):
            seen += more
    return seen.count(b"HTTP/1.1 ")


@pytest.mark.parametrize("seed", range(40))
async def test_however_it_goes_each_lease_ends_once_and_a_client_has_one_answer(seed: int) -> None:
    """`Ledger` fails when a lease ends twice, `world` when one is left."""
    rng = random.Random(seed)
    async with world(2, hedge=True, retry_on=(500,)) as two:
        client, original, copy, number = await copied(two, seeded(KEY))
        repeat, stays = await two.connect(), True
        seen = asyncio.ensure_future(replies(client))
        steps = rng.sample(["original", "copy", "leave", "repeat"], k=4)
        for number_of_step, step in enumerate(steps):
            if step == "leave" and rng.random() < 0.5:
                await client.close()
                stays = False
            elif step == "repeat" and not {"original", "copy"} & set(steps[:number_of_step]):
                await repeat.send(seeded(KEY))
            elif step == "original":
                await end(two, original, number, rng)
            elif step == "copy":
                await end(two, copy, 1 - number, rng)
            await turns(rng.choice([0, 5, 60]))
        await eventually(lambda: not two.fleet.scheduler.live_leases)
        await turns(60)
        assert not two.plane._shared.attempts
        assert two.plane._shared.hedge_budget.under_way == 0
        await repeat.drop()
        await client.close()
        if stays:
            assert await soon(seen) == 1
