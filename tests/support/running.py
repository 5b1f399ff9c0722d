"""The router in this process: a real listener, real workers, and a client to ask it with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx2

from sglang_diffusion_routing.app import App, build
from sglang_diffusion_routing.settings import Settings
from support.deadlines import PATIENCE_S

T = TypeVar("T")


class RunningRouter:
    """One router and a client of it."""

    def __init__(self, app: App, client: httpx2.AsyncClient) -> None:
        self.app = app
        self.client = client

    async def ask(self, method: str, target: str, **options: Any) -> tuple[int, Any]:
        """Send a request; give the status and the decoded body."""
        response = await self.client.request(method, target, **options)
        return response.status_code, response.json()

    async def get(self, target: str) -> tuple[int, Any]:
        return await self.ask("GET", target)

    async def post(self, target: str, body: object = None) -> tuple[int, Any]:
        return await self.ask("POST", target, json={} if body is None else body)

    async def worker(self, url: str) -> dict[str, Any]:
        """Give a worker as `GET /workers` shows it."""
        _, listed = await self.get("/workers")
        return next(worker for worker in listed["workers"] if worker["url"] == url)

    async def statuses(self) -> dict[str, str]:
        _, listed = await self.get("/workers")
        return {worker["url"]: worker["status"] for worker in listed["workers"]}

    async def until_status(self, url: str, status: str) -> None:
        await eventually(lambda: self.worker(url), lambda worker: worker["status"] == status)

    async def until_in_flight(self, url: str, count: int) -> None:
        await eventually(lambda: self.worker(url), lambda worker: worker["active_requests"] == count)


async def eventually(
    read: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], *, within_s: float = PATIENCE_S
) -> T:
    """Return the first value of `read` that is `wanted`; fail with the last one seen at the deadline."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    while True:
        value = await read()
        if wanted(value):
            return value
        assert loop.time() < deadline_s, f"still {value!r} after {within_s:g} s"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(*worker_urls: str, **settings: Any) -> AsyncIterator[RunningRouter]:
    """Run a router with these workers; all of them have been probed when the block begins."""
    app = build(Settings(host="127.0.0.1", port=0, worker_urls=worker_urls, shutdown_grace_s=0, **settings))
    await app.start()
    try:
        base = f"http://127.0.0.1:{app.port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False, timeout=30) as client:
            router = RunningRouter(app, client)
            for url in worker_urls:
                await eventually(lambda url=url: router.worker(url), lambda worker: worker["status"] != "joining")
            yield router
    finally:
        await app.stop()
