import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from http1.listening import Heard, Listener, listening
from http1.peers import FakeWorker, Peer, eventually, soon, turns
from sglang_diffusion_routing.http1.pool import WRITE_HIGH_WATER_BYTES, Upstreams
from sglang_diffusion_routing.http1.reply_head import parse_reply_head
from sglang_diffusion_routing.http1.tunnel import Tunnel
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from sglang_diffusion_routing.http1.websocket import SERVICE_RESTART_FRAME

pytestmark = pytest.mark.loopback

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: k\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: k\r\nX-Tunnel: 1\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)
REQUEST = b"GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
MEBI = 2**20


def frame(payload: bytes) -> bytes:
    return b"\x82\x7f" + struct.pack("!Q", len(payload)) + payload


class Through:
    """A tunnel with both its ends. ends: what `on_end` was told, each time."""

    def __init__(self, pool: Upstreams, worker: FakeWorker, listener: Listener) -> None:
        self.pool = pool
        self.worker = worker
        self.listener = listener
        self.ends: list[bool] = []
        self.client: Peer
        self.peer: Peer
        self.tunnel: Tunnel

    async def open(self, *, early_up: bytes = b"", early_down: bytes = b"") -> None:
        self.client = await self.listener.connect()
        await self.client.send(REQUEST + early_up)
        heard = await self.listener.hears(1)
        connections: asyncio.Queue[UpstreamConnection] = asyncio.Queue()
        self.pool.open(self.worker.worker_id, self.worker.url, connections.put_nowait, lambda error: None)
        upstream = await soon(connections.get())
        self.peer = await self.worker.accept()
        self._begin(heard, upstream, early_down)
        assert await self.client.read(len(SWITCHED)) == SWITCHED

    def _begin(self, heard: Heard, upstream: UpstreamConnection, early: bytes) -> None:
        downstream = heard.connection
        downstream.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self.tunnel = Tunnel(downstream, upstream, now_s=0.0, on_end=self.ends.append)
        upstream.become_tunnel()
        self.tunnel.begin(parse_reply_head(SWITCH, to_head=False), b"X-Tunnel: 1\r\n", early)

    async def is_over(self, *, worker_failed: bool = False) -> None:
        """Wait for the end, and for both connections to be gone."""
        await eventually(lambda: self.ends)
        assert self.ends == [worker_failed]
        await eventually(lambda: not self.pool.open_connections(self.worker.worker_id))


@pytest.fixture
async def through(worker: FakeWorker) -> AsyncIterator[Through]:
    pool = Upstreams(connect_timeout_s=5.0, idle_reuse_s=60.0, max_connections=0, max_head_bytes=4096)
    async with listening() as listener:
        through = Through(pool, worker, listener)
        yield through
        through.tunnel.close()
    pool.abort_all()
    await eventually(lambda: not pool.open_connections(worker.worker_id))


async def test_bytes_pass_unchanged_both_ways(through: Through) -> None:
    await through.open()
    everything = bytes(range(256)) * 40
    await through.client.send(everything[:3], everything[3:])
    assert await through.peer.read(len(everything)) == everything
    await through.peer.send(everything)
    assert await through.client.read(len(everything)) == everything
    assert through.ends == []


async def test_bytes_that_came_before_the_switch_are_not_lost(through: Through) -> None:
    await through.open(early_up=b"up", early_down=b"down")
    assert await through.peer.read(2) == b"up"
    assert await through.client.read(4) == b"down"


class TestEnds:
    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_the_client_leaves(self, through: Through, how: str) -> None:
        await through.open()
        if how == "reset":
            through.client.reset()
            await through.is_over()
            return
        await through.client.close()
        assert await through.peer.read_to_end() == b""
        await through.peer.close()
        await through.is_over()

    async def test_the_worker_breaks_off(self, through: Through) -> None:
        await through.open()
        through.peer.reset()
        await through.is_over(worker_failed=True)
        await through.client.is_cut()

    async def test_a_half_that_is_closed_leaves_the_other_to_the_client(self, through: Through) -> None:
        await through.open()
        through.peer.half_close()
        assert await through.client.read_to_end() == b""
        await through.client.send(b"one more")
        assert await through.peer.read(8) == b"one more"
        assert through.ends == []
        through.client.half_close()
        await through.is_over()

    async def test_a_half_that_is_closed_leaves_the_other_to_the_worker(self, through: Through) -> None:
        await through.open()
        through.client.half_close()
        assert await through.peer.read_to_end() == b""
        await through.peer.send(b"one more")
        assert await through.client.read(8) == b"one more"
        assert through.ends == []
        through.peer.half_close()
        await through.is_over()

    async def test_what_was_sent_last_still_arrives(self, through: Through) -> None:
        await through.open()
        await through.peer.send(b"x" * MEBI)
        through.peer.half_close()
        through.client.half_close()
        assert await through.client.read_to_end() == b"x" * MEBI
        await through.is_over()

    async def test_a_client_that_has_sent_its_last_is_not_gone_while_a_slow_worker_takes_it(
        self, through: Through
    ) -> None:
        await through.open()
        through.peer.pause()
        size = 8 * MEBI
        through.client.writer.write(bytes(size))
        through.client.half_close()
        await turns(200)
        through.listener.pass_time(1)
        await turns()
        assert through.ends == []
        through.peer.resume()
        assert await through.peer.read_to_end() == bytes(size)

    async def test_closing_is_done_once(self, through: Through) -> None:
        await through.open()
        through.tunnel.close()
        through.tunnel.close()
        through.tunnel.restart_elsewhere()
        await through.is_over()
        assert await through.client.read_to_end() == b""


class TestBackPressure:
    MOST = 16 * MEBI

    async def test_a_slow_client_holds_up_the_worker(self, through: Through) -> None:
        await through.open()
        through.client.pause()
        sent = frame(bytes(32 * MEBI))
        through.peer.writer.write(sent)
        assert await through.peer.held_back() > len(sent) - self.MOST
        through.client.resume()
        assert await through.client.read(len(sent)) == sent

    async def test_a_slow_worker_holds_up_the_client(self, through: Through) -> None:
        await through.open()
        through.peer.pause()
        size = 32 * MEBI
        through.client.writer.write(bytes(size))
        assert await through.client.held_back() > size - self.MOST
        through.peer.resume()
        assert await through.peer.read(size) == bytes(size)

    async def test_a_worker_that_takes_nothing_is_given_up(self, through: Through) -> None:
        await through.open()
        through.peer.pause()
        through.client.writer.write(bytes(32 * MEBI))
        await through.client.held_back()
        through.listener.pass_time(1)
        through.listener.pass_time(300)
        assert through.ends == []
        through.listener.pass_time(1)
        assert through.ends == [True]


class TestIdle:
    async def test_a_silent_tunnel_ends(self, through: Through) -> None:
        await through.open()
        through.tunnel.tick(100.0, 60.0)
        through.tunnel.tick(160.0, 60.0)
        assert through.ends == []
        through.tunnel.tick(161.0, 60.0)
        await through.is_over()

    @pytest.mark.parametrize("side", ["client", "peer"])
    async def test_a_byte_either_way_keeps_it(self, through: Through, side: str) -> None:
        await through.open()
        other = through.peer if side == "client" else through.client
        for now_s in (100.0, 150.0, 200.0, 250.0):
            await getattr(through, side).send(b"x")
            assert await other.read(1) == b"x"
            through.tunnel.tick(now_s, 60.0)
        assert (through.ends, through.tunnel.last_active_s) == ([], 250.0)


class TestRestart:
    async def test_between_two_frames_it_is_at_once(self, through: Through) -> None:
        await through.open()
        await through.peer.send(frame(b"hello"))
        assert await through.client.read(15) == frame(b"hello")
        through.tunnel.restart_elsewhere()
        through.tunnel.restart_elsewhere()
        assert await through.client.read_to_end() == SERVICE_RESTART_FRAME
        await through.is_over()

    @pytest.mark.parametrize("cut", [1, 2, 9, 10, 14])
    async def test_within_a_frame_it_is_after_it(self, through: Through, cut: int) -> None:
        await through.open()
        whole = frame(b"hello")
        await through.peer.send(whole[:cut])
        assert await through.client.read(cut) == whole[:cut]
        through.tunnel.restart_elsewhere()
        await through.peer.send(*filter(None, (whole[cut:-1],)))
        await turns()
        assert through.ends == []
        await through.peer.send(whole[-1:] + frame(b"never seen"))
        assert await through.client.read_to_end() == whole[cut:] + SERVICE_RESTART_FRAME
        await through.is_over()

    async def test_a_frame_that_does_not_end_is_not_waited_for_for_ever(
        self, through: Through, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sglang_diffusion_routing.http1.tunnel.FRAME_END_S", 0.05)
        await through.open()
        await through.peer.send(frame(b"hello")[:12])
        await through.client.read(12)
        through.tunnel.restart_elsewhere()
        await through.is_over()


async def test_a_worker_that_takes_nothing_more_does_not_keep_a_closed_tunnel(
    through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sglang_diffusion_routing.http1.tunnel.FRAME_END_S", 0.05)
    await through.open()
    through.peer.pause()
    through.client.writer.write(bytes(32 * MEBI))
    await turns(200)
    through.tunnel.close()
    await through.is_over()
