"""The way to a worker for control calls: every resolved address is checked, every call has its own connection.

Workers close an idle connection after 5 s, and close it without a word after an unhandled error, so a control call
that found a kept connection dead could not tell whether it had been heard. A fresh connection has no such doubt.
"""

from collections.abc import Awaitable, Callable

import httpx2
from typing_extensions import override

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to the addresses that may be connected to, in order.

Raises `InvalidWorkerUrl` when one of them is refused, `OSError` when the name is not known.
"""


class CheckedTransport(httpx2.AsyncBaseTransport):
    """Connects to addresses that have been checked, never to a name: what was checked is what is used."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._inner = httpx2.AsyncHTTPTransport(
            trust_env=False, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        )

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request` to the first address that accepts a connection.

        A failed connect has not touched the request's body, so the next address may have it.
        """
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = await self._resolve(url.host, port)
        except OSError as error:
            raise httpx2.ConnectError(f"cannot resolve {url.host}: {error.strerror or error}") from error
        # Certificates are issued to names, not to the addresses that they resolve to.
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        failure: httpx2.TransportError = httpx2.ConnectError(f"{url.host} has no address")
        for address in addresses:
            request.url = url.copy_with(host=address)
            try:
                return await self._inner.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
        raise failure

    @override
    async def aclose(self) -> None:
        await self._inner.aclose()
