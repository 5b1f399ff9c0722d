"""What the tests of work have in common: how it is begun, and how workers fail it."""

import json
import socket

from http1.peers import FakeWorker, Peer
from proxy.world import World, post, reply, serve
from sglang_diffusion_routing.core.worker import WorkerUrl

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
