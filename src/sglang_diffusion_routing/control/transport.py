"""The way to a worker for control calls: every resolved address is checked, every call has its own connection.

Workers close an idle connection after 5 s, and close it without a word after an unhandled error, so a control call
that found a kept connection dead could not tell whether it had been heard. A fresh connection has no such doubt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx2
from typing_extensions import override

from sglang_diffusion_routing.core.worker import WorkerUrl

Resolve = Callable[[WorkerUrl], Awaitable[list[str]]]
"""Gives the addresses to connect to, in order; raises `ConnectFailed` if there is none, or one of them is refused."""


POOLS = 64
"""For each request and each end httpcore looks at every connection of its pool: with one pool for 256 workers that was
a sixth of what a refit of them cost."""


class CheckedTransport(httpx2.AsyncBaseTransport):
    """Connects to addresses that have been checked, never to a name: what was checked is what is used."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        tls = httpx2.create_ssl_context(trust_env=False)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        self._pools = [httpx2.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits) for _ in range(POOLS)]

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request` to the first address that accepts a connection.

        A failed connect has not touched the request's body, so the next address may have it.
        """
        url = request.url
        pool = self._pools[hash((url.host, url.port)) % POOLS]
        addresses = await self._resolve(WorkerUrl(url.scheme, url.host, url.port or _default_port(url)))
        # Certificates are issued to names, not to the addresses that they resolve to.
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        for address in addresses[:-1]:
            request.url = url.copy_with(host=address)
            try:
                return await pool.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        request.url = url.copy_with(host=addresses[-1])
        return await pool.handle_async_request(request)

    @override
    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


def _default_port(url: httpx2.URL) -> int:
    return 443 if url.scheme == "https" else 80
