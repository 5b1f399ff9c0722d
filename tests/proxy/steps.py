"""What the tests of work have in common: how it is begun, and how workers fail it."""

import json
import socket

from http1.peers import FakeWorker, Peer
from proxy.world import World, post, reply, serve
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.proxy.hedging import copy_stragglers

ASLEEP = b'{"detail":"Server is sleeping. Call resume_memory_occupation first."}'

SCHEDULER_DIED = b'{"status":"unhealthy","error":"Scheduler worker exited; restart the server"}'

SERVER_ERROR = b"500 Internal Server Error"

UNAVAILABLE = b"503 Service Unavailable"


async def code(client: Peer) -> tuple[int, str]:
    """Read an error of the router."""
    status, _, body = await reply(client)
    return status, json.loads(body)["code"]


async def started(world: World, request: bytes | None = None) -> tuple[Peer, Peer, int]:
    """Let a request come to a worker whole; give client, worker's connection and worker's number."""
    client = await world.ask(post() if request is None else request)
    peer = await world.accept()
    await serve(peer)
    return client, peer, world.number(peer)


class UnreachableWorker:
    """A worker whose line of connections is full, so that connecting to it never ends."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.first = socket.create_connection(self.listener.getsockname())
        self.worker = FakeWorker()
        self.worker.stop()
        self.worker.url = WorkerUrl("http", "127.0.0.1", self.listener.getsockname()[1])
        self.worker.worker_id = type(self.worker.worker_id)(str(self.worker.url))

    def close(self) -> None:
        self.first.close()
        self.listener.close()


BODY = b'{"prompt": "x", "seed": 7}'
HUGE = b"x-sglang-router-cost: 1000000"


def seeded(*fields: bytes, body: bytes = BODY) -> bytes:
    return post(b"/rollout/generate", body, HUGE, *fields)


def make_known(two: World, slow: int) -> None:
    """Let one worker be known to be slow, and the others to be fast."""
    for number, worker in enumerate(two.workers):
        speed = two.fleet.scheduler.speed_of(worker.worker_id)
        assert speed is not None
        for _ in range(64):
            speed.learn(1.0, 1.0 if number == slow else 0.01)


async def copied(two: World, request: bytes | None = None) -> tuple[Peer, Peer, Peer, int]:
    """Have work done twice: give the client, the two workers' connections, and the number of the first worker."""
    client, original, number = await started(two, request or seeded())
    make_known(two, number)
    copy_stragglers(two.plane._shared)
    copy = await two.accept()
    await serve(copy)
    return client, original, copy, number


def counts(world: World) -> tuple[int, int, int]:
    counters = world.plane.counters
    return counters.hedges, counters.hedges_won, counters.retries
