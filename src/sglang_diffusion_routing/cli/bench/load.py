"""Send requests, so many at a time, and time each one."""

import asyncio
import itertools
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import httpx2

from sglang_diffusion_routing.app.open_files import raise_open_files_limit
from sglang_diffusion_routing.cli.bench.requests import Request, Task
from sglang_diffusion_routing.tasks import Tasks

IDLE_REUSE_S = 4.0
"""Workers close an idle connection after 5 s."""
MOST_REASON_CHARS = 200
TAIL_BYTES = 512
"""Of a reply that may have gigabytes only its end is kept, where an image's JSON has its memory."""
_PEAK_MEMORY = re.compile(rb'"peak_memory_mb"\s*+:\s*+([0-9.eE+]++)')
CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a load may take: seconds for one request and for all of them, and between two polls of a video."""

    request_s: float = 600.0
    run_s: float = 1800.0
    poll_s: float = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended.

    seconds: from sending to the last byte, for a video to the end of its job; where requests come at times of their
    own, from that time, so that waiting for one of the connections counts. outputs: made; 0 when it failed.
    error: why it failed, else empty. peak_memory_mb: what its worker says of its GPU; 0 when it says nothing.
    """

    seconds: float
    outputs: int
    received_bytes: int
    error: str = ""
    peak_memory_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """All outcomes, in the order in which they came, and the seconds from the first sending to the last end.

    began_s: Unix time, to compare with what workers tell of their work.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float
    began_s: float


class Failed(Exception):
    """A request did not give what it asked for."""


async def load(
    urls: Sequence[str],
    requests: Sequence[Request],
    in_flight: int,
    bounds: Bounds,
    on_end: Callable[[], None] = lambda: None,
    due_s: Sequence[float] = (),
    key: str | None = None,
) -> Load:
    """Send `requests` in order, at most `in_flight` at the same time, in turn to each of `urls`.

    Connections are open before the clock starts: a batch of hundreds would else begin with their making. What has not
    ended within `bounds.run_s` counts as failed. Nothing is tried twice.

    Args:
        on_end: called after each request.
        due_s: when each is to be sent at the earliest, in seconds from the start, ascending; at once if not given.
        key: sent with each, for a router that wants one.
    """
    raise_open_files_limit(in_flight)
    outcomes: list[Outcome] = []
    context = httpx2.create_ssl_context()
    async with AsyncExitStack() as stack, Tasks() as group:
        senders = [_Sender(context, urls, bounds, outcomes, on_end, key) for _ in range(min(in_flight, len(requests)))]
        for sender in senders:
            stack.push_async_callback(sender.close)
        await asyncio.gather(*(sender.connect(urls[number % len(urls)]) for number, sender in enumerate(senders)))
        began_s, started_s = time.time(), time.monotonic()
        due = (started_s + after_s for after_s in due_s) if due_s else itertools.repeat(None)
        numbered = iter(zip(itertools.count(), requests, due))
        tasks = [
            group.spawn(sender.run(numbered), name=f"sender-{number}", on_error=_seen_below)
            for number, sender in enumerate(senders)
        ]
        done, _ = await asyncio.wait(tasks, timeout=bounds.run_s, return_when=asyncio.FIRST_EXCEPTION)
        seconds = time.monotonic() - started_s
        for task in done:
            task.result()
    late = Outcome(seconds, 0, 0, error=f"had not ended when the run's {bounds.run_s:g} s were over")
    return Load((*outcomes, *[late] * (len(requests) - len(outcomes))), seconds, began_s)


def _seen_below(_error: BaseException) -> None:
    """Leave the error to whoever asks for the sender's result."""


class _Sender:
    """Sends one request after the other, with a client of its own: a shared one searches all connections each time."""

    def __init__(
        self,
        context: ssl.SSLContext,
        urls: Sequence[str],
        bounds: Bounds,
        outcomes: list[Outcome],
        on_end: Callable[[], None],
        key: str | None,
    ) -> None:
        self._context = context
        self._urls = urls
        self._bounds = bounds
        self._outcomes = outcomes
        self._on_end = on_end
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._received_bytes = 0
        self._peak_memory_mb = 0.0
        self._client = self._new_client()

    def _new_client(self) -> httpx2.AsyncClient:
        most = len(self._urls)
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=IDLE_REUSE_S)
        transport = httpx2.AsyncHTTPTransport(verify=self._context, limits=limits, trust_env=False)
        return httpx2.AsyncClient(transport=transport, timeout=self._bounds.request_s, headers=self._headers)

    async def connect(self, url: str) -> None:
        """Open a connection; where that fails the requests themselves will say so."""
        with suppress(httpx2.HTTPError):
            await self._client.get(f"{url}/liveness", timeout=CONNECT_S)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def run(self, requests: Iterator[tuple[int, Request, float | None]]) -> None:
        """Send until none is left, each no sooner than it is due; other senders take from the same iterator."""
        for number, request, due_s in requests:
            if due_s is not None:
                await asyncio.sleep(due_s - time.monotonic())
            started_s = time.monotonic() if due_s is None else due_s
            self._received_bytes, self._peak_memory_mb = 0, 0.0
            error = ""
            try:
                async with asyncio.timeout(self._bounds.request_s):
                    await self._send(self._urls[number % len(self._urls)].rstrip("/"), request)
            except Failed as failed:
                error = str(failed)
            except TimeoutError:
                error = f"took longer than {self._bounds.request_s:g} s"
            except httpx2.HTTPError as failed:
                error = f"{type(failed).__name__}: {failed}"[:MOST_REASON_CHARS]
            seconds, outputs = time.monotonic() - started_s, 0 if error else request.outputs
            self._outcomes.append(Outcome(seconds, outputs, self._received_bytes, error, self._peak_memory_mb))
            self._on_end()
            if error:
                # A worker closes after a 500 without saying so; the next request there would fail for that alone.
                await self._client.aclose()
                self._client = self._new_client()

    async def _send(self, url: str, request: Request) -> None:
        job = request.task is Task.VIDEO
        body = await self._call("POST", url + request.path, request.body, keep=job)
        if not job:
            return
        video_id = _member(body, "id")
        while (status := _member(body, "status")) not in {"completed", "failed", "deleted"}:
            await asyncio.sleep(self._bounds.poll_s)
            body = await self._call("GET", f"{url}{request.path}/{video_id}", b"", keep=True)
        if status != "completed":
            raise Failed(f"the job's status is {status!r}")

    async def _call(self, method: str, url: str, content: bytes, *, keep: bool) -> bytes:
        """Give the body of a reply of 200; one that is not to be kept is dropped as it comes, and its end given."""
        kept, tail = bytearray(), b""
        headers = {"content-type": "application/json"} if content else {}
        async with self._client.stream(method, url, content=content, headers=headers) as reply:
            async for part in reply.aiter_raw():
                self._received_bytes += len(part)
                if keep or (reply.status_code != 200 and len(kept) < MOST_REASON_CHARS):
                    kept += part
                tail = part[-TAIL_BYTES:] if len(part) >= TAIL_BYTES else (tail + part)[-TAIL_BYTES:]
        if reply.status_code != 200:
            raise Failed(f"{reply.status_code}: {bytes(kept[:MOST_REASON_CHARS]).decode(errors='replace')}")
        if memory := _PEAK_MEMORY.search(kept or tail):
            self._peak_memory_mb = float(memory[1])
        return bytes(kept) or tail


def _member(body: bytes, name: str) -> str:
    """Read a member of a job's JSON.

    Raises:
        Failed: it is not there.
    """
    try:
        job = json.loads(body)
        return str(job[name])
    except (ValueError, KeyError, TypeError):
        raise Failed(f"the job's JSON has no {name!r}") from None
