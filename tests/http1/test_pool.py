import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from http1.peers import FakeWorker, Peer, eventually, fake_worker, soon, turns
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.http1.pool import Upstreams
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.upstream import UpstreamConnection

pytestmark = pytest.mark.loopback

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class User:
    """Asks for a connection, and gives it back when its reply is whole.

    asks_at_once: send a request as soon as the connection is there, as an exchange does.
    """

    def __init__(self, pool: Upstreams, worker: FakeWorker, *, asks_at_once: bool = False) -> None:
        self.asks_at_once = asks_at_once
        self.pool = pool
        self.worker = worker
        self.connection: UpstreamConnection | None = None
        self.failure: ConnectFailed | None = None
        self.replies = 0
        self.is_lost = False

    def open(self) -> asyncio.Task[None]:
        return self.pool.open(self.worker.worker_id, self.worker.url, self.on_open, self.on_failure)

    def on_open(self, connection: UpstreamConnection) -> None:
        assert self.connection is None
        assert self.failure is None
        self.connection = connection
        if self.asks_at_once:
            self.ask()

    def on_failure(self, error: ConnectFailed) -> None:
        assert self.connection is None
        self.failure = error

    @property
    def told(self) -> bool:
        return self.connection is not None or self.failure is not None or self.is_lost

    def ask(self) -> None:
        assert self.connection is not None
        self.connection.send(self, [b"GET / HTTP/1.1\r\n\r\n"], to_head=False)

    def give_back(self) -> None:
        connection, self.connection = self.connection, None
        assert connection is not None
        self.pool.give_back(connection)

    # ReplySink

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        assert done
        self.replies += 1
        self.give_back()

    def upstream_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.connection = None

    def reply_informed(self, head: ReplyHead) -> None: ...
    def reply_went_on(self, span: bytes, done: bool) -> None: ...
    def reply_broken(self, why: str) -> None: ...
    def upstream_ended(self) -> None: ...
    def upstream_full(self) -> None: ...
    def upstream_writable(self) -> None: ...


class Pool(Upstreams):
    """Lets the test act in the moment in which a connection has ended."""

    after_loss: Callable[[], object] | None = None

    def lost(self, connection: UpstreamConnection) -> None:
        super().lost(connection)
        if self.after_loss is not None:
            self.after_loss()


Make = Callable[..., Pool]


@pytest.fixture
async def make(worker: FakeWorker) -> AsyncIterator[Make]:
    """Make pools whose connections are all gone at the end."""
    pools: list[Pool] = []

    def made(**settings: Any) -> Pool:
        chosen = {"connect_timeout_s": 5.0, "idle_reuse_s": 60.0, "max_connections": 0, "max_head_bytes": 4096}
        pools.append(Pool(**chosen | settings))
        return pools[-1]

    def is_empty(pool: Upstreams) -> bool:
        # Who still waits in line is let in by each connection that ends.
        pool.abort_all()
        return not pool.open_connections(worker.worker_id)

    yield made
    for pool in pools:
        await eventually(partial(is_empty, pool))


@pytest.fixture
async def pool(make: Make) -> Pool:
    return make()


async def used(pool: Upstreams, worker: FakeWorker) -> tuple[UpstreamConnection, Peer]:
    """Open a connection, use it once, and leave it idle."""
    user = User(pool, worker)
    user.open()
    peer = await worker.accept()
    await eventually(lambda: user.connection)
    connection = user.connection
    assert connection is not None
    await exchanged(user, peer)
    return connection, peer


async def exchanged(user: User, peer: Peer) -> None:
    before = user.replies
    user.ask()
    await peer.read_head()
    await peer.send(REPLY)
    await eventually(lambda: user.replies == before + 1)


class TestReuse:
    async def test_an_empty_pool_has_nothing_to_take(self, pool: Upstreams, worker: FakeWorker) -> None:
        assert pool.take(worker.worker_id) is None
        assert (pool.open_connections(worker.worker_id), pool.connects_total) == (0, 0)

    async def test_a_used_connection_is_taken_again_once(self, pool: Upstreams, worker: FakeWorker) -> None:
        connection, _ = await used(pool, worker)
        assert pool.take(worker.worker_id) is connection
        assert connection.reused
        assert pool.take(worker.worker_id) is None
        assert (pool.open_connections(worker.worker_id), pool.connects_total) == (1, 1)

    async def test_a_fresh_connection_is_known_as_such(self, pool: Upstreams, worker: FakeWorker) -> None:
        user = User(pool, worker)
        user.open()
        await eventually(lambda: user.connection)
        assert user.connection is not None
        assert not user.connection.reused

    async def test_the_youngest_is_taken_first(self, pool: Upstreams, worker: FakeWorker) -> None:
        users = [User(pool, worker) for _ in range(3)]
        peers = []
        for user in users:
            user.open()
            peers.append(await worker.accept())
            await eventually(lambda: user.connection)  # noqa: B023 - awaited within the turn
        connections = [user.connection for user in users]
        for number in (1, 0, 2):
            await exchanged(users[number], peers[number])
        taken = [pool.take(worker.worker_id) for _ in range(4)]
        assert taken == [connections[2], connections[0], connections[1], None]

    async def test_workers_do_not_get_each_other_s_connections(self, pool: Upstreams, worker: FakeWorker) -> None:
        async with fake_worker() as other:
            connection, _ = await used(pool, worker)
            assert pool.take(other.worker_id) is None
            assert pool.take(worker.worker_id) is connection

    async def test_a_connection_that_must_not_serve_again_is_closed(self, pool: Upstreams, worker: FakeWorker) -> None:
        user = User(pool, worker)
        user.open()
        peer = await worker.accept()
        await eventually(lambda: user.connection)
        user.give_back()
        await eventually(lambda: pool.open_connections(worker.worker_id) == 0)
        await peer.is_cut()
        assert pool.take(worker.worker_id) is None

    async def test_one_that_its_worker_has_closed_is_forgotten(self, pool: Upstreams, worker: FakeWorker) -> None:
        _, peer = await used(pool, worker)
        await peer.close()
        await eventually(lambda: pool.open_connections(worker.worker_id) == 0)
        assert pool.take(worker.worker_id) is None

    async def test_one_that_idled_too_long_is_closed_instead_of_used(self, make: Make, worker: FakeWorker) -> None:
        pool = make(idle_reuse_s=0.02)
        connections = [(await used(pool, worker))[0]]
        await eventually(lambda: asyncio.get_running_loop().time() > connections[0].idle_since_s + 0.03)
        assert pool.take(worker.worker_id) is None
        await eventually(lambda: pool.open_connections(worker.worker_id) == 0)

    async def test_a_sweep_closes_those_and_no_other(self, make: Make, worker: FakeWorker) -> None:
        pool = make(idle_reuse_s=0.1)
        user = User(pool, worker)
        user.open()
        peer = await worker.accept()
        old, _ = await used(pool, worker)
        await eventually(lambda: asyncio.get_running_loop().time() > old.idle_since_s + 0.11)
        young = user.connection
        await exchanged(user, peer)
        pool.sweep()
        await eventually(lambda: pool.open_connections(worker.worker_id) == 1)
        assert pool.take(worker.worker_id) is young

    async def test_a_paused_connection_reads_again_when_it_is_given_back(
        self, pool: Upstreams, worker: FakeWorker
    ) -> None:
        user = User(pool, worker)
        user.open()
        peer = await worker.accept()
        await eventually(lambda: user.connection)
        connection = user.connection
        assert connection is not None
        user.ask()
        connection.reusable = True
        connection.pause()
        user.give_back()
        assert pool.take(worker.worker_id) is connection
        user.connection = connection
        await peer.read_head()
        await exchanged(user, peer)


class TestOpen:
    async def test_a_refusal_is_told(self, pool: Upstreams, worker: FakeWorker) -> None:
        worker.stop()
        user = User(pool, worker)
        await soon(user.open())
        assert user.failure is not None
        assert user.failure.facts == {"worker": str(worker.url), "why": "connection refused"}
        assert (pool.open_connections(worker.worker_id), pool.connects_total) == (0, 0)

    async def test_a_worker_that_is_not_allowed_is_a_failure(self, make: Make, worker: FakeWorker) -> None:
        user = User(make(connector=Connector(AllowList.parse(["10.0.0.0/8"]))), worker)
        await soon(user.open())
        assert user.failure is not None

    async def test_a_unix_socket_is_connected_to_by_its_path(self, pool: Upstreams, worker: FakeWorker) -> None:
        control = WorkerId("control")
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "s")
            server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
            async with server:
                user = User(pool, worker)
                await soon(pool.open(control, path, user.on_open, user.on_failure))
                assert user.connection is not None
                assert pool.open_connections(control) == 1
                await eventually(lambda: pool.open_connections(control) == 0)
            missing = User(pool, worker)
            await soon(pool.open(control, path + "x", missing.on_open, missing.on_failure))
            assert missing.failure is not None
            assert pool.open_connections(control) == 0

    @pytest.mark.parametrize("step", range(16))
    async def test_who_leaves_at_any_step_leaves_nothing_behind(
        self, pool: Upstreams, worker: FakeWorker, step: int
    ) -> None:
        user = User(pool, worker)
        task = user.open()
        await turns(step)
        task.cancel()
        await soon(asyncio.wait({task}))
        if user.connection is not None:
            assert pool.open_connections(worker.worker_id) == 1
            user.connection.close()
        await eventually(lambda: pool.open_connections(worker.worker_id) == 0)

    async def test_a_worker_that_breaks_off_at_once_is_a_failure_or_a_loss_but_never_a_silence(
        self, pool: Upstreams, worker: FakeWorker
    ) -> None:
        worker.breaks_off = True
        for _ in range(50):
            user = User(pool, worker, asks_at_once=True)
            user.open()
            await eventually(lambda: user.failure or user.is_lost)  # noqa: B023 - awaited within the turn
        await eventually(lambda: pool.open_connections(worker.worker_id) == 0)

    async def test_breaking_off_everything_tells_who_waits_for_a_reply(
        self, pool: Upstreams, worker: FakeWorker
    ) -> None:
        await used(pool, worker)
        user = User(pool, worker)
        user.open()
        await eventually(lambda: user.connection)
        user.ask()
        assert pool.open_connections(worker.worker_id) == 2
        pool.abort_all()
        await eventually(lambda: user.is_lost and not pool.open_connections(worker.worker_id))


class TestLimit:
    async def queue(self, make: Make, worker: FakeWorker, limit: int, count: int) -> tuple[Upstreams, list[User]]:
        """Let `count` users ask at a limit, and wait until those with room have their connection."""
        pool = make(max_connections=limit)
        users = [User(pool, worker) for _ in range(count)]
        for user in users:
            user.open()
            await turns(1)
        await eventually(lambda: all(user.connection for user in users[:limit]))
        await turns()
        assert [user.told for user in users] == [True] * limit + [False] * (count - limit)
        assert pool.open_connections(worker.worker_id) == limit
        return pool, users

    async def test_who_finds_none_waits_in_order_and_is_handed_the_next(self, make: Make, worker: FakeWorker) -> None:
        pool, users = await self.queue(make, worker, 1, 4)
        peer = await worker.accept()
        only = users[0].connection
        for number in range(3):
            await exchanged(users[number], peer)
            await eventually(lambda: users[number + 1].connection)  # noqa: B023
            assert users[number + 1].connection is only
            assert not any(user.told for user in users[number + 2 :])
        await exchanged(users[3], peer)
        assert (pool.take(worker.worker_id), pool.connects_total) == (only, 1)

    async def test_a_lost_connection_makes_room_for_the_first(self, make: Make, worker: FakeWorker) -> None:
        pool, users = await self.queue(make, worker, 1, 3)
        for number in range(2):
            await (await worker.accept()).close()
            await eventually(lambda: users[number + 1].connection)  # noqa: B023
            assert pool.open_connections(worker.worker_id) == 1
            assert not any(user.told for user in users[number + 2 :])
        assert pool.connects_total == 3

    async def test_a_newcomer_does_not_overtake_who_waits(self, make: Make, worker: FakeWorker) -> None:
        pool, users = await self.queue(make, worker, 1, 3)
        newcomer = User(pool, worker)
        first = users[0].connection
        assert first is not None
        first.close()
        # The newcomer asks in the turn of the loop in which the room comes free.
        await eventually(first.transport.is_closing)
        newcomer.open()
        await eventually(lambda: users[1].connection)
        assert not users[2].told
        assert not newcomer.told
        assert pool.open_connections(worker.worker_id) == 1

    async def test_who_leaves_the_line_is_passed_over(self, make: Make, worker: FakeWorker) -> None:
        pool = make(max_connections=1)
        users = [User(pool, worker) for _ in range(4)]
        tasks = []
        for user in users:
            tasks.append(user.open())
            await turns(1)
        peer = await worker.accept()
        await eventually(lambda: users[0].connection)
        tasks[1].cancel()
        await exchanged(users[0], peer)
        await eventually(lambda: users[2].connection)
        assert not users[1].told
        tasks[3].cancel()
        await exchanged(users[2], peer)
        assert pool.take(worker.worker_id) is not None
        assert not users[3].told

    async def test_what_is_handed_to_one_who_is_just_leaving_goes_to_the_next(
        self, make: Make, worker: FakeWorker
    ) -> None:
        pool = make(max_connections=1)
        users = [User(pool, worker) for _ in range(3)]
        tasks = []
        for user in users:
            tasks.append(user.open())
            await turns(1)
        await eventually(lambda: users[0].connection)
        connection = users[0].connection
        assert connection is not None
        connection.reusable = True
        users[0].give_back()
        tasks[1].cancel()
        await eventually(lambda: users[2].connection)
        assert users[2].connection is connection
        assert not users[1].told

    async def test_a_connection_that_breaks_while_it_is_handed_over_is_replaced(
        self, make: Make, worker: FakeWorker
    ) -> None:
        pool, users = await self.queue(make, worker, 1, 2)
        connection = users[0].connection
        assert connection is not None
        connection.reusable = True
        users[0].give_back()
        connection.transport.abort()
        await eventually(lambda: users[1].told)
        assert users[1].connection is not None
        assert users[1].connection is not connection
        assert not users[1].connection.reused
        assert pool.open_connections(worker.worker_id) == 1

    async def test_the_room_of_one_who_is_just_leaving_goes_to_the_next(self, make: Make, worker: FakeWorker) -> None:
        pool = make(max_connections=1)
        users = [User(pool, worker) for _ in range(3)]
        tasks = []
        for user in users:
            tasks.append(user.open())
            await turns(1)
        await eventually(lambda: users[0].connection)
        connection = users[0].connection
        assert connection is not None
        pool.after_loss = tasks[1].cancel
        connection.close()
        await eventually(lambda: users[2].connection)
        pool.after_loss = None
        assert not users[1].told
        assert pool.open_connections(worker.worker_id) == 1

    async def test_a_refusal_lets_the_next_try(self, make: Make, worker: FakeWorker) -> None:
        pool = make(max_connections=1)
        worker.stop()
        users = [User(pool, worker) for _ in range(3)]
        for user in users:
            user.open()
        await eventually(lambda: all(user.failure for user in users))
        assert pool.open_connections(worker.worker_id) == 0

    async def test_each_worker_has_its_own(self, make: Make, worker: FakeWorker) -> None:
        pool, _ = await self.queue(make, worker, 1, 2)
        async with fake_worker() as other:
            user = User(pool, other)
            user.open()
            await eventually(lambda: user.connection)
            assert user.connection is not None
            user.connection.close()
            await eventually(lambda: pool.open_connections(other.worker_id) == 0)


class TestOpenSince:
    """Which connections prove that the process at the other end is the one that was there before."""

    async def test_a_connection_made_before_counts_and_one_made_since_does_not(
        self, pool: Pool, worker: FakeWorker
    ) -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await used(pool, worker)
        assert pool.open_since(worker.worker_id, connection.made_s) == 0
        assert pool.open_since(worker.worker_id, loop.time() + 1.0) == 1
        assert pool.open_since(WorkerId("http://127.0.0.9:1"), loop.time() + 1.0) == 0

    async def test_one_that_is_only_being_made_does_not_count(self, pool: Pool, worker: FakeWorker) -> None:
        user = User(pool, worker)
        user.open()
        assert pool.open_since(worker.worker_id, asyncio.get_running_loop().time() + 1.0) == 0
        await worker.accept()
        await eventually(lambda: user.connection)
