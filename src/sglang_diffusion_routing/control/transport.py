"""The way to a worker for control calls: every resolved address is checked, every call has its own connection.

Workers close an idle connection after 5 s, and close it without a word after an unhandled error, so a control call
that found a kept connection dead could not tell whether it had been heard. A fresh connection has no such doubt.
"""

from __future__ import annotations

import ssl

import httpx2
from typing_extensions import override

from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.http1.connect import Connector

POOLS = 64
"""For each request and each end httpcore looks at every connection of its pool: with one pool for 256 workers that was
a sixth of what a refit of them cost."""


class CheckedTransport(httpx2.AsyncBaseTransport):
    """Connects to addresses that have been checked, never to a name: what was checked is what is used."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        # Never used for TLS; without a context of its own each pool would load the system's authorities.
        self._plain = _pools(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._secure: list[httpx2.AsyncHTTPTransport] = []
        self._tls: ssl.SSLContext | None = None

    def _pool(self, url: httpx2.URL) -> httpx2.AsyncHTTPTransport:
        place = hash((url.host, url.port)) % POOLS
        if url.scheme != "https":
            return self._plain[place]
        tls = self._connector.tls()
        if tls is not self._tls:
            # Calls under way keep the pool that they began with; it keeps no idle connection that had to be closed.
            self._tls, self._secure = tls, _pools(tls)
        return self._secure[place]

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request` to the first address that accepts a connection.

        A failed connect has not touched the request's body, so the next address may have it. Raises `ConnectFailed`
        when there is no address, or one of them is refused.
        """
        url = request.url
        pool = self._pool(url)
        addresses = await self._connector.resolve(WorkerUrl(url.scheme, url.host, url.port or _default_port(url)))
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
        for pool in self._plain + self._secure:
            await pool.aclose()


def _pools(tls: ssl.SSLContext) -> list[httpx2.AsyncHTTPTransport]:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return [httpx2.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits) for _ in range(POOLS)]


def _default_port(url: httpx2.URL) -> int:
    return 443 if url.scheme == "https" else 80
