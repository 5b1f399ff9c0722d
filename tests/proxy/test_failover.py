import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from http1.peers import Peer, eventually, settled, soon, turns
from proxy.steps import ASLEEP, SCHEDULER_DIED, SERVER_ERROR, UNAVAILABLE, UnreachableWorker, code, started
from proxy.world import World, post, reply, serve, sized, world
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.retry import BUDGET_SPARE
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.work import Lease, Result
from sglang_diffusion_routing.errors import Aborted
from sglang_diffusion_routing.http1.replay import SpooledBody
from sglang_diffusion_routing.proxy.work import Work

pytestmark = pytest.mark.loopback


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

    @pytest.mark.parametrize("how", ["an error", "a death"])
    async def test_one_that_is_dropped_from_the_queue_afterwards_is_told_that(self, how: str) -> None:
        async with world(2, retry_on=(500,)) as two:
            client, peer, _ = await started(two)
            two.fleet.pause()
            if how == "an error":
                await peer.send(sized(b"no", SERVER_ERROR))
            else:
                await peer.close()
            await eventually(lambda: two.fleet.scheduler.queued == 1)
            two.fleet.drop_queued(Aborted())
            assert await code(client) == (499, "aborted")

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


class TestPinned:
    """What may go to no other worker is no retry, and takes none of their budget."""

    async def pinned(self, world: World) -> tuple[Peer, Peer]:
        name = world.workers[0].worker_id.encode()
        client, peer, _ = await started(world, post(b"/rollout/generate", b"{}", b"x-sglang-router-worker: " + name))
        return client, peer

    async def test_an_error_is_its_worker_s_own(self) -> None:
        async with world(2, retry_on=(500,), retry_budget_percent=0) as two:
            client, peer = await self.pinned(two)
            await peer.send(sized(b"no", SERVER_ERROR))
            assert (await reply(client))[::2] == (500, b"no")
            assert (two.plane.counters.retries, two.plane.counters.retries_over_budget) == (0, 0)

    async def test_nor_is_it_over_a_budget_that_others_have_used_up(self) -> None:
        async with world(1, cap=0, retry_on=(500,), retry_budget_percent=0) as two:
            clients = [await two.ask(post()) for _ in range(BUDGET_SPARE)]
            peers = [await two.accept() for _ in clients]
            await two.add_worker()
            for peer in peers:
                await serve(peer, sized(b"no", SERVER_ERROR))
            retried = [await two.accept() for _ in clients]
            client, peer = await self.pinned(two)
            await peer.send(sized(b"no", SERVER_ERROR))
            assert (await reply(client))[::2] == (500, b"no")
            assert (two.plane.counters.retries, two.plane.counters.retries_over_budget) == (BUDGET_SPARE, 0)
            for peer in retried:
                await serve(peer, sized())

    async def test_a_death_and_a_sleep_are_told_and_not_counted(self, two: World) -> None:
        client, peer = await self.pinned(two)
        await peer.close()
        assert await code(client) == (502, "upstream_died")
        client, peer = await self.pinned(two)
        await peer.send(sized(ASLEEP, SERVER_ERROR))
        assert await code(client) == (503, "worker_unavailable")
        assert two.plane.counters.retries == 0


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
        monkeypatch.setattr("sglang_diffusion_routing.proxy.failover.STALE_S", 0.02)
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

    async def test_one_that_breaks_after_a_head_is_a_death(self) -> None:
        async with world(1) as two:
            idle = await self.warm(two)
            client = await two.ask(post())
            await serve(idle, sized(b"x")[:-1])
            await two.add_worker()
            await idle.close()
            elsewhere = await two.accept()
            assert two.number(elsewhere) == 1
            await serve(elsewhere, sized(b"y"))
            assert (await reply(client))[2] == b"y"
            await two.released((0, Result.OK, 200), (0, Result.DIED, 0), (1, Result.OK, 200))

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

    @pytest.mark.parametrize("begun", [sized(ASLEEP, SERVER_ERROR)[:-10], sized(b"x" * 100)[:-100]])
    async def test_while_nothing_of_its_reply_has_been_passed_on_another_does_it(
        self, two: World, begun: bytes
    ) -> None:
        client, peer, number = await started(two)
        await peer.send(begun)
        await turns()
        two.lose(two.workers[number])
        await serve(await two.accept(), sized(b"y"))
        status, _, body = await reply(client)
        assert (status, body) == (200, b"y")
        await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))

    async def test_between_head_and_body_with_no_other_worker_it_is_a_502(self, one: World) -> None:
        client, peer, _ = await started(one)
        await peer.send(sized(b"x" * 100)[:-100])
        await turns()
        one.lose(one.workers[0])
        assert await code(client) == (502, "upstream_died")
        await one.released((0, Result.DIED, 0))

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


def slow_reads(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let reads from the disk wait for the event."""
    go = threading.Event()
    pread = os.pread

    def slow(number: int, size: int, position: int) -> bytes:
        assert go.wait(10)
        return pread(number, size, position)

    monkeypatch.setattr(os, "pread", slow)
    return go


class TestSpooled:
    """Bodies that are too large for memory (`--replay-spool-max-bytes`)."""

    BODY = bytes(range(256)) * 4096

    @asynccontextmanager
    async def spooling(self, workers: int = 2, **settings: Any) -> AsyncIterator[World]:
        sizes = {"replay_max_bytes": 1000, "replay_spool_max_bytes": 2**21, "replay_spool_total_bytes": 2**22}
        async with world(workers, **(sizes | settings)) as spooling:
            yield spooling
            await eventually(lambda: not (spooling.plane.spools.used_bytes or spooling.plane.spools.writing))

    async def sent(self, two: World, body: bytes) -> tuple[Peer, Peer, int]:
        """Have a worker take a large body while it is sent."""
        client = await two.connect()
        sending = asyncio.ensure_future(client.send(post(body=body)))
        peer = await two.accept()
        assert (await serve(peer)).endswith(body)
        await sending
        return client, peer, two.number(peer)

    async def test_a_death_costs_nothing_but_time(self) -> None:
        async with self.spooling() as two:
            client, peer, number = await started(two, post(body=self.BODY))
            assert two.plane.spools.used_bytes == len(self.BODY)
            await peer.close()
            second = await two.accept()
            assert (await serve(second)).endswith(b"\r\n\r\n" + self.BODY)
            await second.send(sized(b"x" * 10)[:-5])
            await client.read_head()
            assert two.plane.spools.used_bytes == 0
            await second.send(b"x" * 5)
            assert await client.read(10) == b"x" * 10
            await two.released((number, Result.DIED, 0), (1 - number, Result.OK, 200))

    async def test_an_upload_under_way_goes_elsewhere_with_what_is_still_to_come(self) -> None:
        async with self.spooling() as two:
            half = len(self.BODY) // 2
            client = await two.ask(post(b"/upload", self.BODY)[: -len(self.BODY)], self.BODY[:half])
            first = await two.accept()
            await first.read_head()
            assert await first.read(half) == self.BODY[:half]
            await first.close()
            second = await two.accept()
            await second.read_head()
            assert await second.read(half) == self.BODY[:half]
            await client.send(self.BODY[half:])
            assert await second.read(half) == self.BODY[half:]
            await second.send(sized())
            assert (await reply(client))[0] == 200

    async def test_a_chunked_one_is_sent_as_it_came(self) -> None:
        async with self.spooling() as two:
            raw = b"".join(b"%x;a=b\r\n%b\r\n" % (9999, b"x" * 9999) for _ in range(20)) + b"0\r\n\r\n"
            client = await two.ask(b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", raw)
            for _ in range(2):
                peer = await two.accept()
                await peer.read_head()
                assert await peer.read(len(raw)) == raw
                if not _:
                    await peer.close()
            await peer.send(sized())
            assert (await reply(client))[0] == 200

    @pytest.mark.parametrize(
        "limits",
        [{"replay_spool_max_bytes": 2**19}, {"replay_spool_total_bytes": 2**19}, {"replay_spool_max_bytes": 0}],
    )
    @pytest.mark.parametrize("dies", [True, False])
    async def test_above_its_bounds_it_is_kept_no_more_and_nothing_else_changes(
        self, limits: dict[str, int], dies: bool
    ) -> None:
        async with self.spooling(**limits) as two:
            client, peer, _ = await started(two, post(body=self.BODY))
            assert two.plane.spools.used_bytes == 0
            if dies:
                await peer.close()
                assert await code(client) == (502, "upstream_died")
            else:
                await peer.send(sized())
                assert (await reply(client))[0] == 200

    async def test_a_disk_that_takes_nothing_is_no_error_of_the_request(self) -> None:
        async with self.spooling(replay_spool_dir="/nowhere/at/all") as two:
            for dies in (False, True):
                client, peer, _ = await started(two, post(body=self.BODY))
                await eventually(lambda: two.plane.spools.used_bytes == 0)
                if dies:
                    await peer.close()
                    assert await code(client) == (502, "upstream_died")
                else:
                    await peer.send(sized(b"ok", b"200 OK", b"Connection: close"))
                    assert (await reply(client))[0] == 200
            assert two.plane.spools.failures == 2

    async def test_a_disk_that_fails_in_the_last_moment_leaves_the_client_its_error(self) -> None:
        async with self.spooling() as two:
            client, peer, number = await started(two, post(body=self.BODY))
            (work,) = [lease.holder for lease in two.fleet.scheduler.leases_of(two.workers[number].worker_id)]
            assert isinstance(work, Work)
            spooled = work._spooled
            assert spooled is not None
            await eventually(lambda: spooled._write is None)
            assert spooled._file is not None
            spooled._file.truncate(5)
            await peer.close()
            assert await code(client) == (502, "upstream_died")
            await two.released((number, Result.DIED, 0), (1 - number, Result.ABANDONED, 0))

    async def test_each_worker_is_sent_it_from_the_start(self) -> None:
        async with self.spooling(3, retries=2, retry_on=(500,)) as three:
            client, peer, _ = await started(three, post(body=self.BODY))
            await peer.send(sized(b"no", SERVER_ERROR))
            second = await three.accept()
            await second.read_head()
            await second.read(1000)
            await second.drop()
            third = await three.accept()
            assert (await serve(third, sized())).endswith(b"\r\n\r\n" + self.BODY)
            assert (await reply(client))[0] == 200

    async def test_a_worker_that_answers_before_it_has_all_gets_no_other_request_on_that_connection(self) -> None:
        async with self.spooling(replay_spool_max_bytes=2**26, replay_spool_total_bytes=2**26) as two:
            body = bytes(2**24)
            client, peer, _ = await self.sent(two, body)
            await peer.close()
            second = await two.accept()
            second.pause()
            await second.send(sized(b"enough", b"413 Too Large"))
            assert (await reply(client))[::2] == (413, b"enough")
            await eventually(lambda: not any(two.connections()))

    async def test_nor_if_that_is_for_the_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        go = slow_reads(monkeypatch)
        async with self.spooling(idle_reuse_s=60) as two:
            client, peer, _ = await started(two, post(body=self.BODY))
            await peer.close()
            second = await two.accept()
            await second.read_head()
            await second.send(sized(b"enough", b"413 Too Large"))
            assert (await reply(client))[::2] == (413, b"enough")
            go.set()
            assert await second.read_to_end() == b""
            await eventually(lambda: not any(two.connections()))

    async def test_a_disk_that_fails_under_an_early_answer_does_not_spoil_that(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go = slow_reads(monkeypatch)
        async with self.spooling() as two:
            client, peer, _ = await started(two, post(body=self.BODY))
            await peer.close()
            second = await two.accept()
            await second.read_head()
            await second.send(sized(b"0123456789", b"413 Too Large")[:-5])
            assert b" 413 " in await client.read_head()
            work = two.fleet.scheduler.leases_of(two.workers[two.number(second)].worker_id)[0].holder
            assert isinstance(work, Work)
            spooled = work._spooled
            assert spooled is not None
            await eventually(lambda: spooled._reads)
            spooled.close()
            go.set()
            await eventually(lambda: spooled._file is None)
            await turns(20)
            await second.send(b"56789")
            assert await client.read(10) == b"0123456789"

    async def test_what_comes_of_it_meanwhile_stays_behind_what_came_before(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go = slow_reads(monkeypatch)
        async with self.spooling() as two:
            half = len(self.BODY) // 2
            client = await two.ask(post(b"/upload", self.BODY)[: -len(self.BODY)], self.BODY[:half])
            first = await two.accept()
            await first.read_head()
            await first.read(half)
            await first.close()
            second = await two.accept()
            await second.read_head()
            work = two.fleet.scheduler.leases_of(two.workers[two.number(second)].worker_id)[0].holder
            assert isinstance(work, Work)
            # As from a client that could not be stopped in time.
            work.client_body(self.BODY[half:], True)
            go.set()
            assert await second.read(len(self.BODY)) == self.BODY
            await second.send(sized())
            assert (await reply(client))[0] == 200

    async def test_a_client_that_leaves_meanwhile_takes_it_back(self) -> None:
        async with self.spooling(replay_spool_max_bytes=2**26, replay_spool_total_bytes=2**26) as two:
            client, peer, number = await self.sent(two, bytes(2**24))
            await peer.close()
            second = await two.accept()
            second.pause()
            await eventually(lambda: two.in_flight()[1 - number] == 1)
            await client.close()
            await two.released((number, Result.DIED, 0), (1 - number, Result.ABANDONED, 0))

    async def test_little_of_it_is_in_memory_however_slow_the_second_worker(self) -> None:
        async with self.spooling(replay_spool_max_bytes=2**26, replay_spool_total_bytes=2**26) as two:
            body = bytes(2**25)
            client, peer, number = await self.sent(two, body)
            await peer.close()
            second = await two.accept()
            second.pause()
            (lease,) = await self.leases(two, 1 - number)
            work = lease.holder
            assert isinstance(work, Work)
            assert work._kept is None
            await eventually(lambda: work._upstream_full)
            await turns(200)
            assert work.upstream is not None
            assert work.upstream.transport.get_write_buffer_size() < 2**21
            second.resume()
            assert (await serve(second, sized())).endswith(b"\r\n\r\n" + body)
            assert (await reply(client))[0] == 200

    async def leases(self, two: World, number: int) -> list[Lease]:
        found: list[Lease] = []
        await eventually(lambda: found or found.extend(two.fleet.scheduler.leases_of(two.workers[number].worker_id)))
        return found

    async def test_a_client_waits_for_a_slow_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        go = threading.Event()
        write_all = SpooledBody._write_all

        def slow(body: SpooledBody, spans: list[bytes]) -> None:
            assert go.wait(10)
            write_all(body, spans)

        monkeypatch.setattr(SpooledBody, "_write_all", slow)
        async with self.spooling(replay_spool_max_bytes=2**26, replay_spool_total_bytes=2**26) as two:
            body = bytes(2**24)
            client = await two.connect()
            sending = asyncio.ensure_future(client.send(post(body=body)))
            peer = await two.accept()
            serving = asyncio.ensure_future(serve(peer))
            assert await settled(lambda: two.plane.spools.used_bytes) < 2**20
            go.set()
            await soon(sending)
            assert (await soon(serving)).endswith(body)
            await peer.send(sized())
            assert (await reply(client))[0] == 200


class TestLines:
    """What went wrong with a request is in the log, by the id that its client has."""

    async def test_another_try_is_told_and_a_failure_is_a_warning(self, two: World) -> None:
        with capture_logs() as lines:
            client, peer, number = await started(two, post(b"/rollout/generate", b"{}", b"X-Request-Id: r-1"))
            await peer.drop()
            other = await two.accept()
            await serve(other)
            await other.drop()
            status, fields, _ = await reply(client)
        assert (status, fields[b"x-request-id"]) == (502, b"r-1")
        first, second = (str(two.workers[one].url) for one in (number, 1 - number))
        tried, failed, _ = [line for line in lines if line.get("request_id") == "r-1"]
        assert (tried["event"], tried["log_level"], tried["worker"]) == ("request_tried_elsewhere", "info", first)
        assert (failed["event"], failed["log_level"], failed["code"]) == ("request_failed", "warning", "upstream_died")
        assert first in failed["why"]
        assert second in failed["why"]

    async def test_a_reply_that_breaks_off_is_a_warning(self, one: World) -> None:
        with capture_logs() as lines:
            client, peer, _ = await started(one, post(b"/rollout/generate", b"{}", b"X-Request-Id: r-1"))
            await peer.send(sized(b"0123456789")[:-5])
            await client.read_head()
            await peer.drop()
            await one.released((0, Result.DIED, 200))
        (line,) = [line for line in lines if line.get("request_id") == "r-1"]
        assert (line["event"], line["log_level"]) == ("reply_broken_off", "warning")
        assert str(one.workers[0].url) in line["why"]

    async def test_a_refusal_is_for_who_looks_closely(self) -> None:
        async with world(0) as none:
            with capture_logs() as lines:
                client = await none.ask(post(b"/rollout/generate", b"{}", b"X-Request-Id: r-1"))
                assert (await reply(client))[0] == 503
        (line,) = [line for line in lines if line.get("request_id") == "r-1"]
        assert (line["event"], line["log_level"], line["status"]) == ("request_refused", "debug", 503)
