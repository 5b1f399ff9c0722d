"""A data plane over the real core, with workers, clients and a control app that the test plays."""

import asyncio
import math
import random
import ssl
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from http1.peers import FakeWorker, Peer, connected, eventually, soon
from sglang_diffusion_routing.app import tls
from sglang_diffusion_routing.app.keys import access_of
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.blackhole import BlackHoles
from sglang_diffusion_routing.core.commands import AnnounceDrain, CancelLeases, Command, ForgetWorker
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.work import Holder, JobStatus, Lease, Result
from sglang_diffusion_routing.core.worker import Capability, Worker, WorkerId
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.proxy.ports import Gallery
from sglang_diffusion_routing.proxy.server import DataPlane
from sglang_diffusion_routing.proxy.story import Teller
from sglang_diffusion_routing.runtime.loop import Fleet
from sglang_diffusion_routing.settings import Settings


class Ledger(Fleet):
    """The fleet, which also writes down how each lease ended.

    ends: (worker, how, HTTP status) of each lease, in the order of their ends.
    """

    def __init__(self, limits: SchedulerLimits, policy: str) -> None:
        pool = Pool()
        super().__init__(pool, Scheduler(limits, pool.ledger, random.Random(7), policy), Affinity(), BlackHoles())
        self.run_command = self._run
        self.ends: list[tuple[WorkerId, Result, int]] = []

    def release(self, lease: Lease, result: Result, status: int = 0) -> None:
        assert lease.live, "a lease ends once"
        assert lease.holder is None, "whoever releases a lease holds it no longer"
        self.ends.append((lease.worker.worker_id, result, status))
        super().release(lease, result, status)

    def _run(self, command: Command) -> None:
        """Do what concerns the holders of leases; nothing here is probed, put to sleep or refit."""
        match command:
            case CancelLeases(worker_id, reason):
                self._tell(worker_id, lambda holder: holder.lease_cancelled(reason))
            case AnnounceDrain(worker_id):
                self._tell(worker_id, lambda holder: holder.worker_draining())
            case ForgetWorker(_, incarnation, url):
                self.affinity.forget_worker(incarnation, str(url))

    def _tell(self, worker_id: WorkerId, tell: Callable[[Holder], None]) -> None:
        for lease in self.scheduler.leases_of(worker_id):
            if lease.live and lease.holder is not None:
                tell(lease.holder)


class Jobs:
    """Where jobs are, as if the workers had been asked.

    statuses: what each question finds, in turn, the last for ever. barrier: set when a call through the queue is back.
    """

    def __init__(self) -> None:
        self.statuses: deque[JobStatus] = deque([JobStatus.RUNNING])
        self.asked: list[tuple[str, str, WorkerId]] = []
        self.barriers: list[WorkerId] = []
        self.barrier_is_back = asyncio.Event()
        self.places: dict[tuple[str, str], WorkerId] = {}
        self.located: list[tuple[str, str]] = []
        self.may_locate = asyncio.Event()
        self.may_locate.set()

    async def status(self, kind: str, job_id: str, worker: Worker) -> JobStatus:
        self.asked.append((kind, job_id, worker.worker_id))
        return self.statuses.popleft() if len(self.statuses) > 1 else self.statuses[0]

    async def barrier(self, worker: Worker) -> None:
        self.barriers.append(worker.worker_id)
        await self.barrier_is_back.wait()

    async def locate(self, kind: str, job_id: str) -> WorkerId | None:
        self.located.append((kind, job_id))
        await self.may_locate.wait()
        return self.places.get((kind, job_id))


class Saver:
    """Where jobs are kept, as if on a disk.

    notes: (kind, id, worker, running) in order. disk_is_done: set when what was noted is kept; `flushes` counts waits.
    """

    def __init__(self, *, is_durable: bool) -> None:
        self.is_durable = is_durable
        self.notes: list[tuple[str, str, WorkerId, bool]] = []
        self.disk_is_done = asyncio.Event()
        self.flushes = 0

    def note_job(self, kind: str, job_id: str, worker: Worker, *, running: bool) -> None:
        self.notes.append((kind, job_id, worker.worker_id, running))

    async def flush(self) -> bool:
        self.flushes += 1
        await self.disk_is_done.wait()
        return True


class World:
    """Everything of one router but its control app, which is a Unix socket that the test answers."""

    def __init__(
        self,
        settings: Settings,
        limits: SchedulerLimits,
        folder: str,
        gallery: Gallery | None,
        tellers: Sequence[Teller],
        *,
        is_durable: bool,
    ) -> None:
        self.settings = settings
        self.fleet = Ledger(limits, settings.routing_algorithm.value)
        self.jobs = Jobs()
        self.control_path = str(Path(folder) / "control")
        self.saver = Saver(is_durable=is_durable)
        self.plane = DataPlane(
            settings,
            self.fleet,
            self.jobs,
            self.jobs,
            self.saver,
            self.control_path,
            gallery,
            connector=Connector(),
            access=access_of(settings),
            tellers=tellers,
        )
        if (identity := tls.identity(settings)) is not None:
            self.plane.show(identity.context())
        self.workers: list[FakeWorker] = []
        self.clients: list[Peer] = []
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.control: asyncio.Queue[Peer] = asyncio.Queue()
        self.control_peers: list[Peer] = []

    # workers

    async def add_worker(
        self, *, tasks: tuple[str, ...] | None = ("T2I", "T2V"), model: str = "m", started: FakeWorker | None = None
    ) -> FakeWorker:
        """Register a worker that is healthy; its connections come out of `accept`."""
        worker = started or await FakeWorker().start()
        worker.accepted = self.accepted
        self.workers.append(worker)
        self.fleet.apply(ev.WorkerRegistered(worker.url))
        incarnation = self.record(worker).incarnation
        capability = Capability(tasks, (model,), learned=True)
        self.fleet.apply(ev.CapabilityLearned(worker.worker_id, incarnation, capability))
        self.fleet.apply(ev.ProbeSucceeded(worker.worker_id, incarnation))
        self.fleet.apply(ev.SentinelOpened(worker.worker_id, incarnation))
        return worker

    def record(self, worker: FakeWorker) -> Worker:
        record = self.fleet.pool.get(worker.worker_id)
        assert record is not None
        return record

    def load(self, worker: FakeWorker, version: str) -> None:
        """Let the trainer report that it has given a worker these weights, whatever the worker is doing."""
        group = self.record(worker).weight_group
        assert group is not None
        step = Step(StepKind.REPORTED, version, "")
        refit_id = f"reported-{version}"
        self.fleet.apply(ev.RefitOpened(frozenset({group}), refit_id, version, Mode.IMMEDIATE, step))
        self.fleet.apply(ev.WeightsReported(worker.worker_id, refit_id, version))
        self.fleet.apply(ev.RefitClosed(refit_id))

    def roll(self, version: str, worker: FakeWorker) -> None:
        """Let an idle worker load a version in a refit that goes on, so that the others keep what they have."""
        record, refit_id = self.record(worker), f"rolling-{version}"
        assert record.weight_group is not None
        step = Step(StepKind.DISK, version, "/update_weights_from_disk")
        group = frozenset({record.weight_group})
        self.fleet.apply(ev.RefitOpened(group, refit_id, version, Mode.ROLLING, step))
        self.fleet.apply(ev.RefitRequested(worker.worker_id, refit_id, version))
        assert record.command_id is not None
        self.fleet.apply(ev.CommandSucceeded(worker.worker_id, record.command_id))

    def lose(self, worker: FakeWorker, reason: str = "it died") -> None:
        """Let a worker be lost with all its leases."""
        self.fleet.apply(ev.WorkerDied(worker.worker_id, self.record(worker).incarnation, reason))

    def in_flight(self) -> list[int]:
        return [self.fleet.scheduler.in_flight(worker.worker_id) for worker in self.workers]

    def connections(self) -> list[int]:
        return [self.plane.open_since(worker.worker_id, math.inf) for worker in self.workers]

    # the wire

    async def connect(self) -> Peer:
        client = await connected(self.plane.port)
        self.clients.append(client)
        return client

    async def connect_tls(self, context: ssl.SSLContext) -> Peer:
        """Connect and shake hands; the name that is asked for is 127.0.0.1."""
        connection = asyncio.open_connection("127.0.0.1", self.plane.port, ssl=context, limit=2**20)
        client = Peer(*await soon(connection))
        self.clients.append(client)
        return client

    async def ask(self, *parts: bytes) -> Peer:
        """Connect and send."""
        client = await self.connect()
        await client.send(*parts)
        return client

    async def accept(self) -> Peer:
        """Take the next connection to any of the workers."""
        return await soon(self.accepted.get())

    def number(self, peer: Peer) -> int:
        """Tell at which worker a connection has arrived."""
        return [worker.url.port for worker in self.workers].index(peer.local[1])

    async def accept_control(self) -> Peer:
        return await soon(self.control.get())

    def hide_control(self) -> None:
        """Let the control app's socket vanish."""
        Path(self.control_path).unlink()

    def _control_connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.control_peers.append(peer)
        self.control.put_nowait(peer)

    # the end

    async def released(self, *ends: tuple[int, Result, int]) -> None:
        """Wait until leases have ended in just this way, and no other is left: (worker's number, how, status)."""
        expected = [(self.workers[number].worker_id, result, status) for number, result, status in ends]
        await eventually(lambda: len(self.fleet.ends) >= len(expected) and not self.fleet.scheduler.live_leases)
        assert self.fleet.ends == expected
        assert self.fleet.scheduler.queued == 0

    async def _serve(self) -> AsyncIterator[None]:
        async with await asyncio.start_unix_server(self._control_connected, self.control_path, limit=2**20):
            await self.plane.start()
            try:
                yield
            finally:
                await self._close()

    async def _close(self) -> None:
        await self.plane.close()
        for peer in [*self.clients, *self.control_peers]:
            await peer.drop()
        for worker in self.workers:
            await worker.close()


@asynccontextmanager
async def world(
    workers: int = 1,
    *,
    cap: int = 2,
    queue: QueueLimits | None = None,
    is_durable: bool = False,
    gallery: Gallery | None = None,
    tellers: Sequence[Teller] = (),
    **settings: Any,
) -> AsyncIterator[World]:
    """Start a data plane and its workers; at the end nothing may be left of what went through it.

    cap: pieces of work that one worker holds at once, 0 for no limit. is_durable: whether jobs outlive the router.
    """
    limits = SchedulerLimits(queue=queue or QueueLimits(), max_concurrency=cap)
    with tempfile.TemporaryDirectory() as folder:
        chosen = Settings(**{"host": "127.0.0.1", "port": 0} | settings)
        world = World(chosen, limits, folder, gallery, tellers, is_durable=is_durable)
        async with asynccontextmanager(world._serve)():
            for _ in range(workers):
                await world.add_worker()
            yield world
        await eventually(lambda: not world.fleet.scheduler.live_leases and not world.fleet.scheduler.queued)
        await eventually(lambda: not any(world.connections()))
        counters = world.plane.counters
        assert (counters.connections_now, counters.tunnels_now, len(world.plane.jobs)) == (0, 0, 0)


Fields = dict[bytes, bytes]


async def reply(client: Peer) -> tuple[int, Fields, bytes]:
    """Read one sized reply: its status, its fields by lower-case name, its body."""
    line, *lines = (await client.read_head()).split(b"\r\n")[:-2]
    fields = {name.lower(): value.strip() for name, _, value in (each.partition(b":") for each in lines)}
    return int(line.split()[1]), fields, await client.read(int(fields.get(b"content-length", b"0")))


def post(path: bytes = b"/rollout/generate", body: bytes = b"{}", *fields: bytes) -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"Host: a", *fields, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(path: bytes = b"/stats", *fields: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, b"Host: a", *fields]) + b"\r\n\r\n"


def sized(body: bytes = b"ok", status: bytes = b"200 OK", *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, *fields, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def serve(peer: Peer, answer: bytes | None = None) -> bytes:
    """Take one request whole, answer it, and give its head and body as they came."""
    head = await peer.read_head()
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
    body = await peer.read(length)
    if answer is not None:
        await peer.send(answer)
    return head + body
