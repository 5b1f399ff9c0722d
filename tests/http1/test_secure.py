"""TLS at the clients' side, over raw sockets, with the whole data plane behind it."""

import asyncio
import errno
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Self

import pytest

from http1.peers import Peer, eventually
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.http1.certificates import Identity, Trust
from sglang_diffusion_routing.http1.deadlines import LINGER_S
from sglang_diffusion_routing.http1.secure import SecureConnection
from sglang_diffusion_routing.proxy import server as module
from support.authority import Authority, Files

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def files(authority: Authority) -> Files:
    return authority.issue("127.0.0.1")


@pytest.fixture(scope="module")
def client(authority: Authority) -> ssl.SSLContext:
    return Trust(authority.ca).context()


@pytest.fixture
async def one(files: Files) -> AsyncIterator[World]:
    async with world(1, tls_cert=files.cert, tls_key=files.key) as one:
        yield one


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let deadlines be looked at often."""
    monkeypatch.setattr(module, "TICK_S", 0.02)


async def its_worker(one: World) -> Peer:
    """Give the one connection to the worker, which serves one request after the other."""
    peers = one.workers[0].peers
    return peers[0] if peers else await one.accept()


class Hands:
    """A client that does its TLS by hand: what it has written and not sent yet is in `outgoing`."""

    def __init__(self, raw: Peer, context: ssl.SSLContext) -> None:
        self.raw = raw
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")

    @classmethod
    async def shaken(cls, raw: Peer, context: ssl.SSLContext) -> Self:
        """Shake hands, but for the last flight of the client."""
        hands = cls(raw, context)
        while True:
            try:
                hands.tls.do_handshake()
            except ssl.SSLWantReadError:
                await raw.send(hands.outgoing.read())
                hands.incoming.write(await raw.read_some())
            else:
                return hands


class TestRequests:
    async def test_one_is_served_and_the_worker_is_told_that_it_came_over_tls(
        self, one: World, client: ssl.SSLContext
    ) -> None:
        peer = await one.connect_tls(client)
        for _ in range(2):
            await peer.send(post())
            seen = await serve(await its_worker(one), sized())
            assert b"\r\nX-Forwarded-Proto: https\r\n" in seen
            assert (await reply(peer))[0] == 200
        tls = peer.writer.get_extra_info("ssl_object")
        assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")

    async def test_bytes_come_whole_both_ways(self, one: World, client: ssl.SSLContext) -> None:
        sent, made = bytes(range(256)) * 20_000, bytes(reversed(range(256))) * 20_000
        peer = await one.connect_tls(client)
        asked = asyncio.ensure_future(peer.send(post(b"/rollout/generate", sent)))
        seen = await serve(await one.accept(), sized(made))
        assert seen.endswith(b"\r\n\r\n" + sent)
        status, _, body = await reply(peer)
        assert (status, body == made) == (200, True)
        await asked

    async def test_a_slow_reader_holds_back_its_worker(self, one: World, client: ssl.SSLContext) -> None:
        """What waits for it here is bounded, however much the worker has made."""
        body = b"x" * 64_000_000
        peer = await one.connect_tls(client)
        await peer.send(post())
        worker = await one.accept()
        await serve(worker)
        peer.pause()
        worker.writer.write(sized(body))
        held_back = await worker.held_back()
        assert held_back > 40_000_000
        peer.resume()
        status, _, received = await reply(peer)
        assert (status, len(received)) == (200, len(body))

    async def test_a_worker_that_does_not_read_holds_back_its_client(self, one: World, client: ssl.SSLContext) -> None:
        hands = await Hands.shaken(await one.connect(), client)
        hands.tls.write(b"POST /rollout/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 64000000\r\n\r\n")
        hands.tls.write(bytes(64_000_000))
        hands.raw.writer.write(hands.outgoing.read())
        worker = await one.accept()
        await worker.read_head()
        worker.pause()
        assert await hands.raw.held_back() > 40_000_000
        worker.resume()
        assert await worker.read(64_000_000) == bytes(64_000_000)
        await worker.send(sized())
        hands.incoming.write(await hands.raw.read_some())
        assert hands.tls.read(65536).startswith(b"HTTP/1.1 200 ")

    async def test_a_reply_that_ends_with_the_connection_ends_with_a_closure_alert(
        self, one: World, client: ssl.SSLContext
    ) -> None:
        peer = await one.connect_tls(client)
        await peer.send(b"POST /rollout/generate HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        worker = await one.accept()
        await serve(worker, b"HTTP/1.1 200 OK\r\n\r\nhello")
        await worker.close()
        assert (await peer.read_to_end()).endswith(b"\r\n\r\nhello")

    async def test_a_client_that_ends_its_side_has_left(self, one: World, client: ssl.SSLContext) -> None:
        peer = await one.connect_tls(client)
        await peer.send(get())
        worker = await one.accept()
        await worker.read_head()
        await peer.close()
        await eventually(lambda: one.plane.counters.connections_now == 0)
        await worker.send(sized())

    async def test_a_tunnel_passes_bytes_both_ways_and_ends_as_a_whole(
        self, one: World, client: ssl.SSLContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        peer = await one.connect_tls(client)
        await peer.send(get(b"/ws", b"Upgrade: websocket", b"Connection: Upgrade"))
        worker = await one.accept()
        await serve(worker, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert b" 101 " in await peer.read_head()
        await peer.send(b"\x00over")
        assert await worker.read(5) == b"\x00over"
        await worker.send(b"and back")
        assert await peer.read(8) == b"and back"
        await peer.close()
        assert await worker.read_to_end() == b""
        # The event loop warns of protocols that would keep half a connection.
        assert [record for record in caplog.records if record.name == "asyncio"] == []

    async def test_what_comes_in_one_piece_with_the_end_of_the_handshake_is_read(
        self, one: World, files: Files, authority: Authority
    ) -> None:
        """Finished, request and all: the handshake's last flight may carry data behind it (TLS 1.3 and 1.2)."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = Trust(authority.ca).context()
            context.maximum_version = version
            hands = await Hands.shaken(await one.connect(), context)
            hands.tls.write(get(b"/stats", b"Connection: close"))
            await hands.raw.send(hands.outgoing.read())
            await serve(await its_worker(one), sized())
            hands.incoming.write(await hands.raw.read_some())
            assert hands.tls.read(65536).startswith(b"HTTP/1.1 200 ")
            await hands.raw.drop()


def test_what_is_encrypted_and_not_sent_counts_as_unsent() -> None:
    class Waiting:
        def __init__(self, size: int) -> None:
            self.get_write_buffer_size = lambda: size

    connection = SecureConnection(SimpleNamespace(now_s=0.0), Waiting(3))  # type: ignore[arg-type]
    connection.transport = Waiting(4)  # type: ignore[assignment]
    assert connection.unsent_bytes() == 7


class TestHandshakes:
    async def test_a_client_without_the_asked_for_certificate_is_not_heard(
        self, authority: Authority, files: Files, client: ssl.SSLContext
    ) -> None:
        known = authority.issue("trainer.example")
        own = Trust(authority.ca, known.cert, known.key).context()
        async with world(1, tls_cert=files.cert, tls_key=files.key, tls_client_ca=authority.ca) as one:
            # With TLS 1.3 the client believes that it is in until it reads.
            stranger = await one.connect_tls(client)
            with pytest.raises(ssl.SSLError, match="TLSV13_ALERT_CERTIFICATE_REQUIRED"):
                await stranger.read_to_end()
            peer = await one.connect_tls(own)
            await peer.send(post())
            await serve(await one.accept(), sized())
            assert (await reply(peer))[0] == 200
            assert len(one.workers[0].peers) == 1

    @pytest.mark.parametrize("bytes_sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
    @pytest.mark.usefixtures("fast")
    async def test_one_that_does_not_come_to_an_end_is_given_up(self, files: Files, bytes_sent: bytes) -> None:
        async with world(0, tls_cert=files.both, client_head_timeout_s=0.1) as none:
            slow = await none.ask(bytes_sent) if bytes_sent else await none.connect()
            await eventually(lambda: none.plane.counters.connections_now == 1)
            await slow.is_cut()
            await eventually(lambda: none.plane.counters.connections_now == 0)

    async def test_one_under_way_counts_as_a_connection(self, files: Files, client: ssl.SSLContext) -> None:
        async with world(1, tls_cert=files.both, max_client_connections=2) as one:
            silent = [await one.connect() for _ in range(2)]
            await eventually(lambda: one.plane.counters.connections_now == 2)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await one.connect_tls(client)
            await silent[0].close()
            await eventually(lambda: one.plane.counters.connections_now == 1)
            peer = await one.connect_tls(client)
            await peer.send(post())
            await serve(await one.accept(), sized())
            assert (await reply(peer))[0] == 200
            assert one.plane.counters.connections_now == 2

    async def test_clients_that_leave_in_the_middle_are_counted_out(self, one: World, client: ssl.SSLContext) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        for end in ("reset", "close", "cut"):
            for size in (1, 6, len(hello) // 2, len(hello)):
                raw = await one.ask(hello[:size])
                await eventually(lambda: one.plane.counters.connections_now == 1)
                if end == "close":
                    await raw.close()
                else:
                    raw.reset() if end == "reset" else raw.cut()
                await eventually(lambda: one.plane.counters.connections_now == 0)
                await raw.drop()

    async def test_one_that_no_descriptor_is_left_for_is_broken_off(
        self, one: World, client: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def dup(_: int) -> int:
            raise OSError(errno.EMFILE, "too many open files")

        monkeypatch.setattr("sglang_diffusion_routing.http1.secure.os.dup", dup)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await one.connect_tls(client)
        await eventually(lambda: one.plane.counters.connections_now == 0)

    async def test_they_end_with_the_router(self, files: Files) -> None:
        async with world(0, tls_cert=files.both) as none:
            silent, begun = await none.connect(), await none.ask(b"\x16\x03")
            await eventually(lambda: none.plane.counters.connections_now == 2)
            none.plane.stop_accepting()
            await eventually(lambda: none.plane.counters.connections_now == 0)
            for peer in (silent, begun):
                await peer.drop()

    async def test_another_certificate_is_shown_to_who_comes_later(
        self, one: World, authority: Authority, client: ssl.SSLContext
    ) -> None:
        first = await one.connect_tls(client)
        before = first.writer.get_extra_info("peercert")["serialNumber"]
        later = authority.issue("127.0.0.1")
        one.plane.show(Identity(later.cert, later.key).context())
        second = await one.connect_tls(client)
        assert second.writer.get_extra_info("peercert")["serialNumber"] != before
        for peer in (first, second):
            await peer.send(post())
            await serve(await its_worker(one), sized())
            assert (await reply(peer))[0] == 200


class TestPlainHttp:
    @pytest.mark.parametrize("sent", [post(), get(), b"G"])
    async def test_a_client_that_speaks_it_is_told_what_is_wrong(self, one: World, sent: bytes) -> None:
        peer = await one.ask(sent)
        status, fields, body = await reply(peer)
        assert (status, json.loads(body), fields[b"connection"]) == (
            400,
            {"error": "this port speaks HTTPS: begin the address with https://", "code": "https_only"},
            b"close",
        )
        assert await peer.read_to_end() == b""
        assert one.plane.counters.refusals["https_only"] == 1
        await peer.close()

    @pytest.mark.usefixtures("fast")
    async def test_one_that_stays_is_cut_off(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sglang_diffusion_routing.http1.secure.LINGER_S", 0.05)
        assert LINGER_S == 2
        async with world(0, tls_cert=files.both) as none:
            peer = await none.ask(get())
            await reply(peer)
            await eventually(lambda: none.plane.counters.connections_now == 0)

    async def test_noise_gets_no_answer(self, one: World) -> None:
        for noise in (b"\x00\x01\x02", b"\x80\x2e\x01\x00\x02", b"\r\n"):
            peer = await one.ask(noise)
            with suppress(ConnectionResetError):
                assert await peer.read_to_end() == b""
