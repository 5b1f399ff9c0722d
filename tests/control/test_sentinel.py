import asyncio

import pytest

from sglang_diffusion_routing.control.sentinel import News, Sentinels
from sglang_diffusion_routing.core.events import SentinelEnded, SentinelLost, SentinelOpened
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from support.raw_worker import serving


class Watcher:
    """Sentinels with what they reported."""

    def __init__(self, connections: int = 0) -> None:
        self.reports: asyncio.Queue[News] = asyncio.Queue()
        self.sentinels = Sentinels(
            self.reports.put_nowait, lambda worker_id, before_s: connections, connect_timeout_s=2.0
        )

    async def report(self) -> News:
        async with asyncio.timeout(5):
            return await self.reports.get()

    async def lost(self) -> SentinelLost:
        """Give the last word on a connection."""
        while not isinstance(news := await self.report(), SentinelLost):
            pass
        return news


class Peer:
    """A worker's side of the silent connections."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.received = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.connected.set()
        self.received += await reader.read()

    async def until_connected(self) -> None:
        async with asyncio.timeout(5):
            await self.connected.wait()


def worker_at(url: WorkerUrl, incarnation: int = 1) -> Worker:
    return Worker(WorkerId(str(url)), url, incarnation, 0.0)


@pytest.mark.parametrize("connections", [0, 3])
async def test_the_end_of_the_connection_is_reported_with_those_that_are_left(connections: int) -> None:
    peer, watcher = Peer(), Watcher(connections)
    async with serving(peer.handle) as url:
        watcher.sentinels.open(worker_at(url, incarnation=7))
        await peer.until_connected()
        worker_id = WorkerId(str(url))
        assert await watcher.report() == SentinelOpened(worker_id, 7)
        peer.writers[0].transport.abort()
        assert await watcher.report() == SentinelEnded(worker_id, 7)
        # What it had is counted only when all that dies with it has died.
        assert (watcher.reports.empty(), watcher.sentinels.ended_total) == (True, 0)
        assert await watcher.report() == SentinelLost(worker_id, 7, connections)
    assert (watcher.sentinels.ended_total, peer.received) == (1, b"")
    await watcher.sentinels.aclose()


async def test_what_the_worker_says_is_ignored() -> None:
    peer, watcher = Peer(), Watcher()
    async with serving(peer.handle) as url:
        watcher.sentinels.open(worker_at(url))
        await peer.until_connected()
        peer.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await peer.writers[0].drain()
        assert isinstance(await watcher.report(), SentinelOpened)
        assert watcher.reports.empty()
        peer.writers[0].close()
        assert (await watcher.lost()).connections == 0
    await watcher.sentinels.aclose()


async def test_a_connection_that_cannot_be_opened_is_reported() -> None:
    watcher = Watcher()
    async with serving(Peer().handle) as url:
        pass
    watcher.sentinels.open(worker_at(url))
    assert await watcher.report() == SentinelLost(WorkerId(str(url)), 1, 0)
    await watcher.sentinels.aclose()


async def test_a_worker_that_is_forgotten_is_let_go_without_a_report() -> None:
    peer, watcher = Peer(), Watcher()
    async with serving(peer.handle) as url:
        watcher.sentinels.open(worker_at(url))
        await peer.until_connected()
        assert isinstance(await watcher.report(), SentinelOpened)
        watcher.sentinels.close(WorkerId(str(url)))
        watcher.sentinels.close(WorkerId(str(url)))
        async with asyncio.timeout(5):
            await peer.writers[0].wait_closed()
    assert watcher.reports.empty()
    await watcher.sentinels.aclose()


async def test_watching_anew_replaces_the_connection() -> None:
    peer, watcher = Peer(), Watcher()
    async with serving(peer.handle) as url:
        watcher.sentinels.open(worker_at(url, incarnation=1))
        await peer.until_connected()
        peer.connected.clear()
        watcher.sentinels.open(worker_at(url, incarnation=2))
        await peer.until_connected()
        peer.writers[1].close()
        assert (await watcher.lost()).incarnation == 2
    assert watcher.reports.empty()
    await watcher.sentinels.aclose()
