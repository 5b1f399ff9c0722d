"""An exchange that goes to one worker, or to the next when that fails, and writes down the turns of its life."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from http1.listening import Listener, listening
from http1.peers import FakeWorker, eventually
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import ConnectFailed, UpstreamDied
from sglang_diffusion_routing.http1.conversation import Conversation
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.joined import Joined
from sglang_diffusion_routing.http1.pool import WRITE_HIGH_WATER_BYTES, Upstreams
from sglang_diffusion_routing.http1.relay import Exchange
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.http1.turns import Held
from sglang_diffusion_routing.settings import Settings

REPLAY_MAX_BYTES = 1000


class Told(Exchange):
    """Goes to the relay's workers in turn. turns: what it was told, in order, but for the bytes."""

    def __init__(self, relay: "Relay", downstream: DownstreamConnection, head: RequestHead) -> None:
        super().__init__(downstream, head, relay.upstreams, replay_max_bytes=REPLAY_MAX_BYTES)
        self.relay = relay
        self.turns: list[tuple[Any, ...]] = []
        self.held: list[bytes] = []
        self.replied = b""
        self._workers = iter(relay.workers)

    def go(self) -> bool:
        """Set out for the next worker, if there is one."""
        worker = next(self._workers, None)
        if worker is None:
            return False
        idle = self.upstreams.take(worker.worker_id)
        if idle is not None:
            self.start(idle)
        else:
            self._connecting = self.upstreams.open(worker.worker_id, worker.url, self.start, self.connect_failed)
        return True

    def on_body(self) -> None:
        if not self.turns:
            self.turns.append(("body",))
            self.go()

    def upstream_head(self, worker_id: WorkerId) -> bytes:
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (self.head.method, self.head.target, self.head.block)

    def reply_lines(self, head: ReplyHead) -> bytes:
        return b"X-Relay: 1\r\n"

    def hold_limit_bytes(self, head: ReplyHead) -> int:
        return self.relay.hold_limit_bytes if head.field(b"x-hold") else 0

    def on_held(self, head: ReplyHead, body: bytes) -> Held:
        self.held.append(body)
        if head.field(b"x-hold") == b"swallow":
            self.retry()
            return Held.SWALLOW if self.go() else Held.SEND
        return Held.KEEP if head.field(b"x-hold") == b"keep" else Held.SEND

    def on_reply_body(self, span: bytes) -> None:
        self.replied += span

    def on_connect_failed(self, error: ConnectFailed) -> None:
        self.turns.append(("connect failed", error.facts["worker"]))
        if not self.go():
            self.fail(error)

    def on_died(self, *, replayable: bool) -> None:
        self.turns.append(("died", replayable))
        if not (replayable and self.go()):
            self.fail(UpstreamDied(["w"]))

    def on_orphaned(self) -> None:
        self.turns.append(("orphaned",))

    def on_rejoined(self) -> None:
        self.turns.append(("rejoined",))

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        self.turns.append(("end", whole, None if head is None else head.status))

    async def ended(self) -> list[tuple[Any, ...]]:
        """Wait for the end; give the turns, of which the end must be the last and the only one."""
        await eventually(lambda: self.turns and self.turns[-1][0] == "end")
        assert [turn for turn in self.turns if turn[0] == "end"] == self.turns[-1:]
        return self.turns


class Relay:
    """A listener whose every request goes to `workers`.

    joins: a request joins the first exchange, if that still takes it; `refused_to_join` counts those it did not.
    """

    def __init__(self, workers: tuple[FakeWorker, ...], pool: type[Upstreams]) -> None:
        self.workers = workers
        self.hold_limit_bytes = 100
        self.joins = False
        self.joined: list[Joined] = []
        self.refused_to_join = 0
        self.exchanges: list[Told] = []
        self.upstreams = pool(
            connect_timeout_s=5.0, idle_reuse_s=60.0, max_connections=0, max_head_bytes=Settings().max_head_bytes
        )
        self.listener: Listener

    def answer(self, connection: DownstreamConnection, head: RequestHead) -> Conversation:
        connection.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        if self.joins and self.exchanges:
            joined = self.exchanges[0].join(connection)
            if joined is not None:
                self.joined.append(joined)
                return joined
            self.refused_to_join += 1
        self.exchanges.append(Told(self, connection, head))
        return self.exchanges[-1]

    def open_connections(self) -> list[int]:
        """Count the connections to each worker."""
        return [self.upstreams.open_connections(worker.worker_id) for worker in self.workers]


@asynccontextmanager
async def relaying(*workers: FakeWorker, pool: type[Upstreams] = Upstreams) -> AsyncIterator[Relay]:
    relay = Relay(workers, pool)
    async with listening(relay.answer) as relay.listener:
        yield relay
    relay.upstreams.abort_all()
    await eventually(lambda: not any(relay.open_connections()))
