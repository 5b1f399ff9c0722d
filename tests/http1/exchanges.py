"""Requests under way between the test's client and the test's worker."""

import asyncio
import json
import socket
from collections.abc import Callable

from http1.peers import Peer
from http1.relaying import Relay, Told
from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.pool import Upstreams
from sglang_diffusion_routing.http1.upstream import UpstreamConnection

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED_POST = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_RELAYED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Relay: 1\r\n\r\nok"
CHUNKS = b"2;a=b\r\nok\r\n00\r\nX-Sum: 1\r\n\r\n"
MEBI = 2**20


class Under:
    """One request under way: the client that sent it, the worker that has it, and the exchange between."""

    def __init__(self, client: Peer, peer: Peer, exchange: Told, head: bytes) -> None:
        self.client = client
        self.peer = peer
        self.exchange = exchange
        self.head = head


async def under_way(relay: Relay, request: bytes = GET, *, worker: int = 0, receive_buffer: int | None = None) -> Under:
    """Send a request and let it come to the worker, up to the end of its head."""
    client = await relay.listener.connect(receive_buffer=receive_buffer)
    await client.send(request)
    peer = await relay.workers[worker].accept()
    head = await peer.read_head()
    return Under(client, peer, relay.exchanges[-1], head)


async def error_code(client: Peer) -> tuple[int, str]:
    """Read an error reply of the router: its status and code."""
    head = await client.read_head()
    length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), json.loads(await client.read(length))["code"]


class CrampedPool(Upstreams):
    """Its connections have a send buffer of the smallest size."""

    def open(
        self,
        worker_id: WorkerId,
        url: WorkerUrl | str,
        on_open: Callable[[UpstreamConnection], None],
        on_failure: Callable[[ConnectFailed], None],
    ) -> asyncio.Task[None]:
        def cramped(connection: UpstreamConnection) -> None:
            sock = connection.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            on_open(connection)

        return super().open(worker_id, url, cramped, on_failure)
