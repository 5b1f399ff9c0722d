"""Both ends of real connections, played by the test: raw bytes, and a deadline on every wait."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self, TypeVar

from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl

T = TypeVar("T")

PATIENCE_S = 5.0
"""Longest wait for anything that should happen at once."""


async def soon(waited: Awaitable[T]) -> T:
    """Wait, but not for ever."""
    async with asyncio.timeout(PATIENCE_S):
        return await waited


async def eventually(holds: Callable[[], object]) -> None:
    """Let the loop turn until `holds` does."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for is plain state, which sets no event
            await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Let the loop turn: what is to come of what has happened has come, sockets of this machine included."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settled(read: Callable[[], int]) -> int:
    """Let the loop turn until a number has stood still for a while: give it."""
    async with asyncio.timeout(PATIENCE_S):
        value, still = read(), 0
        while still < 200:
            await asyncio.sleep(0)
            now = read()
            still = still + 1 if now == value else 0
            value = now
    return value


class Peer:
    """One end of a connection. What it does not `read` stays in the kernel, once a little has been read ahead."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def local(self) -> tuple[str, int]:
        host, port = self.writer.get_extra_info("sockname")[:2]
        return host, port

    async def send(self, *parts: bytes) -> None:
        """Write, each part when the one before has left this process."""
        for part in parts:
            self.writer.write(part)
            await soon(self.writer.drain())
            await turns(3)

    async def read(self, size: int) -> bytes:
        return await soon(self.reader.readexactly(size))

    async def read_head(self) -> bytes:
        """Read up to and with the first empty line."""
        return await soon(self.reader.readuntil(b"\r\n\r\n"))

    async def read_some(self) -> bytes:
        """Read what comes first; empty at the end."""
        return await soon(self.reader.read(65536))

    async def read_to_end(self) -> bytes:
        """Read until the other side ends it well; ConnectionResetError when it breaks off."""
        return await soon(self.reader.read())

    async def is_cut(self) -> bool:
        """Read until the end; tell whether the connection was broken off."""
        try:
            await self.read_to_end()
        except ConnectionResetError:
            return True
        return False

    async def held_back(self) -> int:
        """Wait until no more of what was written leaves this process; give the bytes that are left."""
        return await settled(self.writer.transport.get_write_buffer_size)

    def half_close(self) -> None:
        self.writer.write_eof()

    def cut(self) -> None:
        """End the TCP connection under TLS, as the end of a process does: no closure alert."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)

    def pause(self) -> None:
        """Take nothing more from the kernel."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    def reset(self) -> None:
        """Break the connection off."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await soon(self.writer.wait_closed())

    async def drop(self) -> None:
        """Close, whatever is still to be sent."""
        self.writer.transport.abort()
        await self.close()


async def connected(port: int, *, receive_buffer: int | None = None) -> Peer:
    """Connect to a port of this machine; with a receive buffer the client is slow by nature."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await soon(asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port)))
    except BaseException:
        sock.close()
        raise
    return Peer(*await asyncio.open_connection(sock=sock, limit=1024 if receive_buffer else 2**20))


class FakeWorker:
    """Listens on a free port; each connection waits in `accepted` until the test takes it.

    breaks_off: reset each connection as soon as it is there. tls: speak TLS, as this context says.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.peers: list[Peer] = []
        self.breaks_off = False
        self.url = WorkerUrl("http" if tls is None else "https", "127.0.0.1", self._sock.getsockname()[1])
        self.worker_id = WorkerId(str(self.url))

    async def start(self, *, receive_buffer: int | None = None) -> Self:
        if receive_buffer is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        limit = 1024 if receive_buffer else 2**20
        self._server = await asyncio.start_server(self._accept, sock=self._sock, limit=limit, ssl=self._tls)
        return self

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        if self.breaks_off:
            peer.reset()
            return
        self.peers.append(peer)
        self.accepted.put_nowait(peer)

    async def accept(self) -> Peer:
        """Take the next connection."""
        return await soon(self.accepted.get())

    def stop(self) -> None:
        """Refuse connections from now on; those that are open stay."""
        if self._server is not None:
            self._server.close()
        self._sock.close()

    async def close(self) -> None:
        self.stop()
        for peer in self.peers:
            await peer.drop()


@asynccontextmanager
async def fake_worker(
    *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeWorker]:
    worker = await FakeWorker(tls).start(receive_buffer=receive_buffer)
    try:
        yield worker
    finally:
        await worker.close()
