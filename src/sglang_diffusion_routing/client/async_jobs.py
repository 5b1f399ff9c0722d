"""Videos and meshes, for the asynchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sglang_diffusion_routing.client import operations
from sglang_diffusion_routing.client.async_transport import AsyncTransport
from sglang_diffusion_routing.client.downloads import download
from sglang_diffusion_routing.client.exchange import Send
from sglang_diffusion_routing.client.operations import Job, Retry
from sglang_diffusion_routing.client.terms import NO_TERMS, Terms


class AsyncJobs:
    """Work that outlives its request: videos, or meshes."""

    def __init__(self, transport: AsyncTransport, kind: str, retry: Retry) -> None:
        self._transport = transport
        self._kind = kind
        self._retry = retry

    async def create(
        self,
        prompt: str,
        *,
        files: Mapping[str, str | Path] | None = None,
        terms: Terms = NO_TERMS,
        **request: Any,
    ) -> Job:
        """Begin a job, and give what the worker says of it: `id`, `status`, ...

        Args:
            files: to send along, by the name of their field, such as `input_reference`.
        """
        return await self._transport.run(operations.create_job(self._kind, prompt, request, files, terms, self._retry))

    async def retrieve(self, job_id: str) -> Job:
        """Give what the worker says of a job."""
        return await self._transport.run(operations.call(Send("GET", operations.job_path(self._kind, job_id))))

    async def list(self, **params: str) -> Job:
        """Give a page of all workers' jobs: `data`, `first_id`, `last_id`, `has_more`; limit, after, order."""
        return await self._transport.run(operations.call(Send("GET", f"/v1/{self._kind}", params=params or None)))

    async def delete(self, job_id: str) -> Job:
        """Forget a job; its work goes on in the engine."""
        return await self._transport.run(operations.call(Send("DELETE", operations.job_path(self._kind, job_id))))

    async def wait(
        self,
        job_id: str,
        *,
        on_progress: Callable[[Job], None] | None = None,
        poll_s: float = 1.0,
        timeout_s: float | None = None,
    ) -> Job:
        """Give a job when it has ended.

        Raises:
            JobFailed: it has ended without a result.
            TookTooLong: it has not ended in time; it goes on.
        """
        told = on_progress or operations.told_nobody
        return await self._transport.run(
            operations.wait_for_job(self._kind, job_id, told, poll_s, timeout_s, time.monotonic)
        )

    async def download(
        self,
        job_id: str,
        target: str | Path,
        *,
        on_bytes: Callable[[int, int | None], None] | None = None,
    ) -> Path:
        """Fetch a job's file, going on where an earlier call stopped; `on_bytes` is told how many of how many."""
        path = operations.job_path(self._kind, job_id, "/content")
        return await self._transport.run(download(path, Path(target), self._retry, on_bytes or operations.told_nobody))
