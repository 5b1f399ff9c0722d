"""Typed calls on one worker; every call ends in one of three ways: succeeded, refused or lost.

Shapes are those of SGLang-Diffusion 0.5.23 (`sglang/multimodal_gen/runtime/entrypoints`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Self

import httpx2

from sglang_diffusion_routing.control.health_call import BrokenReply, ask_health
from sglang_diffusion_routing.control.replies import decode, decode_now, read_capability
from sglang_diffusion_routing.control.transport import CheckedTransport
from sglang_diffusion_routing.core.worker import Capability, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import ConnectFailed, RouterError
from sglang_diffusion_routing.http1.connect import Connector

_BAD_GATEWAY = 502
_NO_SUCH_ROUTE = frozenset({404, 405, 501})


class Ended(Enum):
    """How a remote call ended."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    """The worker said no: a status above 299, or `success: false` in any reply."""
    LOST = "lost"
    """Unknown: no whole answer came back."""


class Failure(Enum):
    """Why a call was lost."""

    UNREACHABLE = "unreachable"
    """No connection: refused, no route, unknown or refused address. The worker has not seen the call."""
    TIMED_OUT = "timed_out"
    BROKEN = "broken"
    """The connection ended, or what came back was not HTTP."""
    OVERSIZED = "oversized"


@dataclass(frozen=True, slots=True)
class Answer:
    """One worker's answer to one call.

    status_code: the worker's status, 502 when the call was lost.
    body: decoded JSON, `{"raw": text}` for anything else, `{"error": why}` when the call was lost.
    failure: why the call was lost, None when it was not.
    """

    ended: Ended
    status_code: int
    body: object
    failure: Failure | None = None

    @property
    def message(self) -> str:
        """Give the worker's own words where it has some, else its status."""
        if isinstance(self.body, dict):
            for key in ("message", "error", "detail"):
                if isinstance(said := self.body.get(key), str):
                    return said
        return f"status {self.status_code}"


@dataclass(frozen=True, slots=True)
class Call:
    """What to send.

    target: path and query, as bytes reach the worker. timeout_s: limit of the whole call.
    content: the body; an async iterable needs its `content-length` among the headers, or is sent in chunks.
    max_reply_bytes: a longer reply loses the call.
    head_only: the status is all that matters; the body is left unread, and shown as None.
    """

    method: str
    target: str
    timeout_s: float
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | AsyncIterable[bytes] | None = None
    max_reply_bytes: int = 1024 * 1024
    head_only: bool = False


class WorkerApi:
    """Calls on workers. Owns one HTTP client; close it with `aclose`.

    Args:
        connector: the way to the workers. key_of: gives the key that a worker wants, if any.

    Attributes:
        ended: calls so far by how they ended.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        connect_timeout_s: float,
        key_of: Callable[[WorkerUrl], str | None] = lambda _: None,
    ) -> None:
        self._key_of = key_of
        self._connect_timeout_s = connect_timeout_s
        self._connector = connector
        self._open: dict[WorkerId, list[float]] = {}
        self.ended: Counter[str] = Counter()
        self._timeout = httpx2.Timeout(None, connect=connect_timeout_s)
        self._client = httpx2.AsyncClient(
            transport=CheckedTransport(connector),
            trust_env=False,
            follow_redirects=False,
            timeout=self._timeout,
            headers={"accept-encoding": "identity", "connection": "close", "user-agent": "sglang-d-router"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def send(self, url: WorkerUrl, call: Call) -> Answer:
        """Send `call` to the worker at `url`; never raises for what the network or the worker does."""
        return await self._counted(url, self._send(url, call))

    async def _counted(self, url: WorkerUrl, call: Awaitable[Answer]) -> Answer:
        """Await a call; count it as open while it lasts, and by its end afterwards."""
        worker_id, began_s = WorkerId(str(url)), asyncio.get_running_loop().time()
        self._open.setdefault(worker_id, []).append(began_s)
        try:
            answer = await call
        finally:
            self._open[worker_id].remove(began_s)
            if not self._open[worker_id]:
                del self._open[worker_id]
        self.ended[answer.ended.value] += 1
        return answer

    def open_since(self, worker_id: WorkerId, before_s: float) -> int:
        """Count the calls on a worker that began before an instant, loop time, and are still under way."""
        return sum(began_s < before_s for began_s in self._open.get(worker_id, ()))

    async def _send(self, url: WorkerUrl, call: Call) -> Answer:
        try:
            async with asyncio.timeout(call.timeout_s):
                return await self._exchange(url, call)
        except TimeoutError:
            return _lost(Failure.TIMED_OUT, f"no answer within {call.timeout_s:g} s")
        except httpx2.ConnectTimeout:
            return _lost(Failure.TIMED_OUT, f"no connection within {self._timeout.connect:g} s")
        except httpx2.ConnectError as error:
            return _lost(Failure.UNREACHABLE, f"cannot connect: {_reason(error)}")
        except RouterError as error:
            return _lost(Failure.UNREACHABLE, error.message)
        except (httpx2.HTTPError, OSError) as error:
            return _lost(Failure.BROKEN, str(error) or type(error).__name__)

    async def _exchange(self, url: WorkerUrl, call: Call) -> Answer:
        """Send the request and read the reply up to its bound."""
        request = self._client.build_request(
            call.method, f"{url}{call.target}", headers=call.headers, content=call.content
        )
        if (key := self._key_of(url)) is not None:
            request.headers["authorization"] = f"Bearer {key}"
        try:
            response = await self._client.send(request, stream=True)
        except AttributeError as error:
            # anyio 4 asks a fresh connection for its peer's name, and uvloop has none of one that was reset meanwhile.
            raise httpx2.ReadError("the connection ended as it was made") from error
        try:
            content = bytearray()
            if not call.head_only:
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > call.max_reply_bytes:
                        return _lost(Failure.OVERSIZED, f"the reply is longer than {call.max_reply_bytes} bytes")
        finally:
            await response.aclose()
        body = None if call.head_only else await decode(bytes(content))
        refused = response.status_code > 299 or (isinstance(body, dict) and body.get("success") is False)
        return Answer(Ended.REFUSED if refused else Ended.SUCCEEDED, response.status_code, body)

    async def health(self, url: WorkerUrl, timeout_s: float) -> Answer:
        """Ask `GET /health`: 200 when it serves, 503 while it warms up or when its scheduler has died."""
        return await self._counted(url, self._health(url, timeout_s))

    async def _health(self, url: WorkerUrl, timeout_s: float) -> Answer:
        try:
            status, content = await ask_health(
                self._connector,
                url,
                timeout_s=timeout_s,
                connect_timeout_s=self._connect_timeout_s,
                key=self._key_of(url),
            )
        except TimeoutError:
            return _lost(Failure.TIMED_OUT, f"no answer within {timeout_s:g} s")
        except ConnectFailed as error:
            return _lost(Failure.UNREACHABLE, error.message)
        except BrokenReply as error:
            return _lost(Failure.BROKEN, str(error))
        ended = Ended.SUCCEEDED if status == 200 else Ended.REFUSED
        return Answer(ended, status, decode_now(content))

    async def capability(self, url: WorkerUrl, timeout_s: float) -> Capability | None:
        """Ask `GET /v1/models` what the worker makes; None when no answer came that says so, or that it never will."""
        answer = await self.send(url, Call("GET", "/v1/models", timeout_s))
        if answer.ended is Ended.SUCCEEDED or answer.status_code in _NO_SUCH_ROUTE:
            return read_capability(answer.body) or Capability(learned=True)
        return None

    async def release_memory(self, url: WorkerUrl, timeout_s: float) -> Answer:
        """Put the worker to sleep; it says "already sleeping" when it is."""
        return await self.send(url, Call("POST", "/release_memory_occupation", timeout_s))

    async def resume_memory(self, url: WorkerUrl, timeout_s: float) -> Answer:
        """Wake the worker; it says "already awake" when it is."""
        return await self.send(url, Call("POST", "/resume_memory_occupation", timeout_s))

    async def checksums(self, url: WorkerUrl, timeout_s: float) -> Mapping[str, str] | None:
        """Ask for the SHA-256 of every module's weights, by module.

        Returns:
            None when the worker did not say, nothing at all when it has no such route.
        """
        call = Call(
            "POST", "/get_weights_checksum", timeout_s, headers={"content-type": "application/json"}, content=b"{}"
        )
        answer = await self.send(url, call)
        if answer.status_code in _NO_SUCH_ROUTE:
            return {}
        if answer.ended is not Ended.SUCCEEDED or not isinstance(answer.body, dict):
            return None
        sums = {name: value for name, value in answer.body.items() if isinstance(value, str)}
        return sums if sums and len(sums) == len(answer.body) else None

    async def adapters(self, url: WorkerUrl, timeout_s: float) -> str | None:
        """Ask for the LoRA adapters that are applied, with their strengths, in one text that only depends on them.

        Returns:
            None when no answer came, an empty text when none is applied or the worker does not have any.
        """
        answer = await self.send(url, Call("GET", "/v1/list_loras", timeout_s))
        if answer.ended is Ended.LOST:
            return None
        applied = answer.body.get("active") if isinstance(answer.body, dict) else None
        return json.dumps(applied, sort_keys=True) if applied else ""


def _reason(error: BaseException) -> str:
    """Find the operating system's word for a failed connect under the layers that have wrapped it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return os.strerror(cause.errno).lower() if cause.errno else cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _lost(failure: Failure, why: str) -> Answer:
    return Answer(ended=Ended.LOST, status_code=_BAD_GATEWAY, body={"error": why}, failure=failure)
