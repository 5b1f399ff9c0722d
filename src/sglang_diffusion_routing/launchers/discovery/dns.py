"""Take every address of a DNS name for a worker, as a Kubernetes headless service means it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import structlog

from sglang_diffusion_routing.core.discovery import DnsName, Named
from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import InvalidWorkerUrl
from sglang_diffusion_routing.launchers.discovery.reading import Unreadable, checked
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)


class DnsReader:
    """Asks for the addresses of a name, v4 and v6.

    Args:
        limit_s: how long an answer may take.
    """

    def __init__(self, name: DnsName, *, limit_s: float) -> None:
        self._name = name
        self._limit_s = limit_s
        self._tasks = Tasks()
        self._asking: asyncio.Task[list[str]] | None = None
        self._refused: frozenset[str] = frozenset()

    async def read(self) -> Sequence[Named]:
        """Give a worker for each address; one that may be no worker is left out, which is logged once.

        Raises:
            Unreadable: there is no answer, or no address in it.
        """
        if self._asking is None:
            self._asking = self._tasks.spawn(self._ask(), name="resolve", on_error=_told_to_the_reader)
        # A resolver that hangs holds a thread until it gives up by itself: the next reading waits for the same answer.
        done, _ = await asyncio.wait([self._asking], timeout=self._limit_s)
        if not done:
            raise Unreadable(f"did not resolve within {self._limit_s:g} s")
        asked, self._asking = self._asking, None
        try:
            addresses = asked.result()
        except OSError as error:
            raise Unreadable(f"does not resolve ({error.strerror or error})") from None
        return checked(self._workers(addresses))

    async def _ask(self) -> list[str]:
        loop = asyncio.get_running_loop()
        entries = await loop.getaddrinfo(self._name.host, self._name.port, type=socket.SOCK_STREAM)
        return sorted({str(entry[4][0]) for entry in entries}, key=_order)

    def _workers(self, addresses: Sequence[str]) -> list[Named]:
        workers: list[Named] = []
        refused: dict[str, str] = {}
        for address in addresses:
            host = f"[{address}]" if ":" in address else address
            try:
                workers.append(Named(WorkerUrl.parse(f"http://{host}:{self._name.port}")))
            except InvalidWorkerUrl as error:
                refused[address] = error.message
        for address in refused.keys() - self._refused:
            _log.warning("worker_kept_out", worker=address, source=str(self._name), reason=refused[address])
        self._refused = frozenset(refused)
        return workers

    async def aclose(self) -> None:
        """Wait for no answer any more."""
        await self._tasks.cancel_all()


def _told_to_the_reader(_error: BaseException) -> None:
    """Leave the error to `read`, which awaits the task."""


def _order(address: str) -> tuple[int, str]:
    """Sort addresses alike at every reading, v4 first; resolvers rotate them."""
    version = ipaddress.ip_address(address.partition("%")[0]).version
    return version, address
