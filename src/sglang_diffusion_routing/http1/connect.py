"""Connect to a worker, after checking every address that its name stands for."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.worker import WorkerUrl, refused_address
from sglang_diffusion_routing.errors import ConnectFailed

P = TypeVar("P", bound=asyncio.Protocol)

KEEPALIVE_IDLE_S = 30
"""A host that vanished without a word is noticed after about a minute: 30 s idle, then 3 probes 10 s apart."""


async def resolve_worker(url: WorkerUrl, allowed: AllowList) -> list[str]:
    """Give the addresses of a worker's host, each of them allowed; `ConnectFailed` otherwise.

    A name of which one address is refused is refused whole: it may be a rebinding attack.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectFailed(str(url), f"its name does not resolve ({error.strerror or error})") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        why = refused_address(address)
        if why is not None:
            raise ConnectFailed(str(url), f"its address {address} is refused: {why}")
        if not allowed.allows_host(url.host, url.port) and not allowed.allows_address(address, url.port):
            raise ConnectFailed(
                str(url), f"its address {address}, port {url.port}, is not on the list of allowed workers"
            )
    return addresses


def tls_for(url: WorkerUrl) -> ssl.SSLContext | None:
    """Give what is needed to connect to an https worker, None for http; certificates are checked."""
    return _tls_context() if url.scheme == "https" else None


@cache
def _tls_context() -> ssl.SSLContext:
    # Loading the certificates of all authorities takes some 20 ms: once, and not before a worker needs it.
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def open_worker_connection(
    url: WorkerUrl,
    factory: Callable[[], P],
    *,
    timeout_s: float,
    allowed: AllowList | None = None,
    tls: ssl.SSLContext | None = None,
) -> P:
    """Connect to a worker within `timeout_s`, address by address; raise `ConnectFailed`."""
    last = "no address"
    try:
        async with asyncio.timeout(timeout_s):
            for address in await resolve_worker(url, allowed or AllowList()):
                try:
                    return await _connect(url, address, factory, tls)
                except OSError as error:
                    last = _reason(error)
    except TimeoutError:
        last = f"no connection within {timeout_s:g} s"
    raise ConnectFailed(str(url), last)


async def _connect(url: WorkerUrl, address: str, factory: Callable[[], P], tls: ssl.SSLContext | None) -> P:
    loop = asyncio.get_running_loop()
    if tls is None:
        transport, protocol = await loop.create_connection(factory, address, url.port)
    else:
        transport, protocol = await loop.create_connection(
            factory, address, url.port, ssl=tls, server_hostname=url.host
        )
    set_keepalive(transport)
    return protocol


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
    return str(error.strerror or error).lower()
