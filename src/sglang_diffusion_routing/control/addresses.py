"""Check that URLs may be workers: what their hosts resolve to now, and the list of hosts that are allowed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Sequence

from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.worker import WorkerUrl, refused_address
from sglang_diffusion_routing.errors import InvalidWorkerUrl
from sglang_diffusion_routing.tasks import Tasks


class Addresses:
    """The check of a worker's host at its registration; each connection makes it again.

    Args:
        limit_s: how long the names may take to resolve, all together.
    """

    def __init__(self, allowed: AllowList, *, limit_s: float) -> None:
        self._allowed = allowed
        self._limit_s = limit_s

    async def check(self, urls: Sequence[WorkerUrl]) -> None:
        """Look at every host once, all at the same time.

        A name that does not resolve may do so later, unless only listed addresses are allowed.

        Raises:
            InvalidWorkerUrl: naming the first URL that may not be a worker, and why.
        """
        found = await self._resolve({url.host: url.port for url in urls})
        for url in urls:
            addresses = found[url.host]
            for address in addresses:
                if (why := refused_address(address)) is not None:
                    raise InvalidWorkerUrl(str(url), f"resolves to {address}, which {why}")
            if not (self._allowed.allows_host(url.host, url.port) or self._allows_all(addresses, url.port)):
                raise InvalidWorkerUrl(str(url), "is not on the list of allowed workers")

    def _allows_all(self, addresses: Collection[str], port: int) -> bool:
        return bool(addresses) and all(self._allowed.allows_address(address, port) for address in addresses)

    async def _resolve(self, hosts: dict[str, int]) -> dict[str, list[str]]:
        """Give the addresses of every host; none for those that do not resolve in time."""
        found: dict[str, list[str]] = {host: [host] if _is_address(host) else [] for host in hosts}

        async def ask(host: str, port: int) -> None:
            try:
                entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError:
                return
            found[host] = [str(entry[4][0]) for entry in entries]

        async with Tasks() as tasks:
            asked = [tasks.spawn(ask(host, hosts[host]), name="resolve") for host in hosts if not found[host]]
            if asked:
                await asyncio.wait(asked, timeout=self._limit_s)
        return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
