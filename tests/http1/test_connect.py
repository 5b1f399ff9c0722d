import asyncio
import socket
import ssl
from typing import Any

import pytest

from http1.peers import FakeWorker, fake_worker, soon, turns
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.certificates import Identity, Trust
from sglang_diffusion_routing.http1.connect import (
    KEEPALIVE_IDLE_S,
    Connector,
    set_keepalive,
)
from support.authority import Authority

pytestmark = pytest.mark.loopback

ANY = Connector()


def url(host: str, port: int = 80) -> WorkerUrl:
    """Build a URL that `WorkerUrl.parse` would refuse: names may resolve to anything."""
    return WorkerUrl("http", host, port)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name stand for these addresses: no name of this machine resolves to forbidden ones."""

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


class Made(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


class TestResolve:
    @pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "::1", "2001:db8::1"])
    async def test_an_address_stands_for_itself(self, host: str) -> None:
        assert await ANY.resolve(url(host)) == [host]

    async def test_a_name_gives_each_of_its_addresses_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolving(monkeypatch, "10.0.0.1", "10.0.0.2", "10.0.0.1")
        assert await ANY.resolve(url("w")) == ["10.0.0.1", "10.0.0.2"]

    async def test_an_unknown_name_is_a_failure_to_connect(self) -> None:
        with pytest.raises(ConnectFailed) as caught:
            await ANY.resolve(url("no-such-host.invalid"))
        assert caught.value.facts["worker"] == "http://no-such-host.invalid"
        assert "does not resolve" in str(caught.value.facts["why"])

    @pytest.mark.parametrize(
        "address",
        [
            "169.254.169.254",
            "169.254.1.1",
            "fe80::1",
            "0.0.0.0",
            "100.100.100.200",
            "::ffff:169.254.169.254",
            "224.0.0.1",
        ],
    )
    @pytest.mark.parametrize("others", [[], ["10.0.0.1"]])
    async def test_one_forbidden_address_refuses_the_whole_name(
        self, monkeypatch: pytest.MonkeyPatch, address: str, others: list[str]
    ) -> None:
        resolving(monkeypatch, *others, address)
        with pytest.raises(ConnectFailed) as caught:
            await ANY.resolve(url("rebinding.example"))
        assert address in str(caught.value.facts["why"])

    async def test_a_forbidden_address_is_refused_without_a_name_too(self) -> None:
        with pytest.raises(ConnectFailed):
            await ANY.resolve(url("169.254.169.254"))

    async def test_a_list_of_allowed_workers_holds_after_resolution(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolving(monkeypatch, "10.0.0.1", "10.9.0.1")
        assert await Connector(AllowList.parse(["10.0.0.0/8"])).resolve(url("w")) == ["10.0.0.1", "10.9.0.1"]
        assert await Connector(AllowList.parse(["w"])).resolve(url("w")) == ["10.0.0.1", "10.9.0.1"]
        with pytest.raises(ConnectFailed):
            await Connector(AllowList.parse(["10.0.0.0/16"])).resolve(url("w"))
        with pytest.raises(ConnectFailed):
            await Connector(AllowList.parse(["other"])).resolve(url("w"))

    async def test_a_name_on_the_list_may_still_not_stand_for_a_forbidden_address(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolving(monkeypatch, "169.254.169.254")
        with pytest.raises(ConnectFailed):
            await Connector(AllowList.parse(["w", "169.254.0.0/16"])).resolve(url("w"))


class TestConnect:
    async def test_a_worker_that_listens_is_connected_to(self, worker: FakeWorker) -> None:
        protocol = await ANY.open(worker.url, Made, timeout_s=5.0)
        peer = await worker.accept()
        sock = protocol.transport.get_extra_info("socket")
        assert peer.local == sock.getpeername()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
        protocol.transport.close()

    async def test_a_worker_that_does_not_listen_refuses(self, worker: FakeWorker) -> None:
        worker.stop()
        with pytest.raises(ConnectFailed) as caught:
            await ANY.open(worker.url, Made, timeout_s=5.0)
        assert caught.value.facts == {"worker": str(worker.url), "why": "connection refused"}

    async def test_the_next_address_is_tried(self, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
        resolving(monkeypatch, "127.9.9.9", "127.0.0.1")
        protocol = await ANY.open(url("w", worker.url.port), Made, timeout_s=5.0)
        assert protocol.transport.get_extra_info("peername")[0] == "127.0.0.1"
        protocol.transport.close()

    async def test_a_forbidden_address_gets_no_packet(
        self, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolving(monkeypatch, "127.0.0.1", "169.254.169.254")
        with pytest.raises(ConnectFailed):
            await ANY.open(url("w", worker.url.port), Made, timeout_s=5.0)
        assert worker.accepted.empty()

    async def test_an_address_off_the_list_gets_no_packet(self, worker: FakeWorker) -> None:
        with pytest.raises(ConnectFailed):
            await Connector(AllowList.parse(["10.0.0.0/8"])).open(worker.url, Made, timeout_s=5.0)
        assert worker.accepted.empty()

    async def test_a_worker_that_does_not_answer_is_given_up(self) -> None:
        """A listener whose line is full drops further attempts."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            first = socket.create_connection(("127.0.0.1", port))
            with first, pytest.raises(ConnectFailed) as caught:
                await ANY.open(url("127.0.0.1", port), Made, timeout_s=0.2)
        assert caught.value.facts["why"] == "no connection within 0.2 s"

    async def test_a_name_that_takes_too_long_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
            await asyncio.Event().wait()
            return []

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        with pytest.raises(ConnectFailed):
            await ANY.open(url("w"), Made, timeout_s=0.05)


class TestTls:
    async def test_the_worker_s_name_is_asked_for(self, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
        """Server name and protocol stand in clear in the first message (RFC 6066 §3, RFC 7301)."""
        resolving(monkeypatch, "127.0.0.1")

        async def answer() -> bytes:
            peer = await worker.accept()
            hello = await peer.read_some()
            await peer.close()
            return hello

        target = WorkerUrl("https", "w.example", worker.url.port)
        hello, outcome = await asyncio.gather(answer(), ANY.open(target, Made, timeout_s=5.0), return_exceptions=True)
        assert isinstance(outcome, ConnectFailed)
        assert isinstance(hello, bytes)
        assert b"w.example" in hello
        assert b"http/1.1" in hello

    async def test_a_worker_without_tls_is_a_failure_to_connect(self, worker: FakeWorker) -> None:
        async def answer() -> None:
            peer = await worker.accept()
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        target = WorkerUrl("https", "127.0.0.1", worker.url.port)
        _, outcome = await asyncio.gather(
            answer(),
            ANY.open(target, Made, timeout_s=5.0),
            return_exceptions=True,
        )
        assert isinstance(outcome, ConnectFailed)


class TestTlsWithCertificates:
    @pytest.fixture
    def connector(self, authority: Authority) -> Connector:
        connector = Connector()
        connector.use(Trust(authority.ca).context())
        return connector

    def server(self, authority: Authority, name: str = "127.0.0.1") -> ssl.SSLContext:
        files = authority.issue(name)
        return Identity(files.cert, files.key).context()

    async def test_a_certificate_of_the_named_authority_is_believed(
        self, connector: Connector, authority: Authority
    ) -> None:
        async with fake_worker(tls=self.server(authority)) as worker:
            made = await connector.open(worker.url, Made, timeout_s=5.0)
            tls = made.transport.get_extra_info("ssl_object")
            assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
            made.transport.close()

    async def test_an_unknown_authority_is_not(self, authority: Authority) -> None:
        async with fake_worker(tls=self.server(authority)) as worker:
            with pytest.raises(ConnectFailed) as caught:
                await ANY.open(worker.url, Made, timeout_s=5.0)
        assert caught.value.facts["why"] == ("its certificate is not accepted: unable to get local issuer certificate")

    async def test_the_certificate_must_be_for_the_name_and_not_for_its_address(
        self, connector: Connector, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolving(monkeypatch, "127.0.0.1")
        async with fake_worker(tls=self.server(authority)) as worker:
            with pytest.raises(ConnectFailed) as caught:
                await connector.open(WorkerUrl("https", "w.example", worker.url.port), Made, timeout_s=5.0)
        assert caught.value.facts["why"] == (
            "its certificate is not accepted: Hostname mismatch, certificate is not valid for 'w.example'."
        )

    async def test_what_is_not_read_yet_survives_the_end_of_the_connection(
        self, connector: Connector, authority: Authority
    ) -> None:
        """While a client is slow its worker's reply waits here; the worker may have closed meanwhile."""
        received = bytearray()
        ended = asyncio.Event()

        class Slow(Made):
            def data_received(self, data: bytes) -> None:
                received.extend(data)

            def connection_lost(self, exc: Exception | None) -> None:
                ended.set()

        async with fake_worker(tls=self.server(authority)) as worker:
            slow = await connector.open(worker.url, Slow, timeout_s=5.0)
            try:
                peer = await worker.accept()
                slow.transport.pause_reading()  # type: ignore[attr-defined]
                await peer.send(b"x" * 100_000)
                await turns()
                peer.cut()
                await turns(200)
                assert (len(received), ended.is_set()) == (0, False)
                slow.transport.resume_reading()  # type: ignore[attr-defined]
                await soon(ended.wait())
            finally:
                slow.transport.abort()  # type: ignore[attr-defined]
        assert (len(received), set(received)) == (100_000, {ord("x")})


async def test_a_unix_socket_needs_no_keepalive() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_unix_connection(Made, sock=ours)
        set_keepalive(transport)
        transport.close()
