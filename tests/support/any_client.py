"""Both clients, called in the same way: of the blocking one each call has a thread."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sglang_diffusion_routing.client import AsyncClient, Client, Retry

KINDS = ("blocking", "asynchronous")


class AnyClient:
    """A client of either kind."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method by its name: `videos.create`."""
        target: Any = self.client
        for part in name.split("."):
            target = getattr(target, part)
        if isinstance(self.client, Client):
            return await asyncio.to_thread(target, *args, **options)
        return await target(*args, **options)


@asynccontextmanager
async def connected(kind: str, url: str) -> AsyncIterator[AnyClient]:
    """Give a client of an address, for the length of a block."""
    retry = Retry(attempts=20, wait_s=0.05)
    if kind == "blocking":
        with Client(url, retry=retry) as blocking:
            yield AnyClient(blocking)
    else:
        async with AsyncClient(url, retry=retry) as asynchronous:
            yield AnyClient(asynchronous)
