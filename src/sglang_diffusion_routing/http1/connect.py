"""Connect to a worker, after checking every address that its name stands for."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.worker import WorkerUrl, refused_address
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.certificates import Trust

P = TypeVar("P", bound=asyncio.Protocol)

KEEPALIVE_IDLE_S = 30
"""A host that vanished without a word is noticed after about a minute: 30 s idle, then 3 probes 10 s apart."""


class Connector:
    """The way to the workers: which addresses are allowed, and whom to believe there.

    Args:
        allowed: what a worker's name may resolve to.
    """

    def __init__(self, allowed: AllowList | None = None) -> None:
        self._allowed = allowed or AllowList()
        self._tls: ssl.SSLContext | None = None

    async def resolve(self, url: WorkerUrl) -> list[str]:
        """Give the addresses of a worker's host, each of them allowed; `ConnectFailed` otherwise.

        A name of which one address is refused is refused whole: it may be a rebinding attack.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectFailed(str(url), f"its name does not resolve ({error.strerror or error})") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        by_name = self._allowed.allows_host(url.host, url.port)
        for address in addresses:
            why = refused_address(address)
            if why is not None:
                raise ConnectFailed(str(url), f"its address {address} is refused: {why}")
            if not by_name and not self._allowed.allows_address(address, url.port):
                raise ConnectFailed(
                    str(url), f"its address {address}, port {url.port}, is not on the list of allowed workers"
                )
        return addresses

    async def open(self, url: WorkerUrl, factory: Callable[[], P], *, timeout_s: float) -> P:
        """Connect to a worker within `timeout_s`, address by address; raise `ConnectFailed`."""
        last = "no address"
        try:
            async with asyncio.timeout(timeout_s):
                for address in await self.resolve(url):
                    try:
                        return await self._connect(url, address, factory)
                    except OSError as error:
                        last = _reason(error)
        except TimeoutError:
            last = f"no connection within {timeout_s:g} s"
        raise ConnectFailed(str(url), last)

    async def _connect(self, url: WorkerUrl, address: str, factory: Callable[[], P]) -> P:
        loop = asyncio.get_running_loop()
        if url.scheme == "https":
            transport, protocol = await loop.create_connection(
                # The address is the one that was checked; the certificate must be for the name.
                factory,
                address,
                url.port,
                ssl=self.tls(),
                server_hostname=url.host,
            )
            _keep_what_came(transport)
        else:
            transport, protocol = await loop.create_connection(factory, address, url.port)
        set_keepalive(transport)
        return protocol

    def tls(self) -> ssl.SSLContext:
        """Give what https workers are connected to with; the system's authorities count, unless others were named."""
        if self._tls is None:
            # Loading the certificates of all authorities takes some 20 ms: once, and not before a worker needs it.
            self._tls = Trust().context()
        return self._tls

    def use(self, tls: ssl.SSLContext) -> None:
        """Connect to https workers with this from now on; connections that stand go on."""
        self._tls = tls


def _keep_what_came(transport: asyncio.BaseTransport) -> None:
    """Let a TLS transport read no further than its reader has.

    uvloop drops what is decrypted but unread when the peer's end is seen (sslproto.pyx, `eof_received`): a reply whose
    connection ends with it would lose its last bytes while the client is slow.
    """
    cast("_ReadBuffered", transport).set_read_buffer_limits(high=1)


class _ReadBuffered(Protocol):
    """What TLS transports have and asyncio's type for them lacks."""

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


def set_keepalive(transport: asyncio.BaseTransport) -> None:
    """Let TCP find out that the other host is gone."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it ({(error.reason or str(error)).replace('_', ' ').lower()})"
    return str(error.strerror or error).lower()
