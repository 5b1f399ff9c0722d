import asyncio
import json

import pytest

from http1.peers import Peer, eventually, turns
from proxy.steps import ASLEEP, SERVER_ERROR, code, started
from proxy.world import World, post, reply, serve, sized, world
from sglang_diffusion_routing.core.limits import QueueLimits
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.settings import OnDisconnect

pytestmark = pytest.mark.loopback


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
