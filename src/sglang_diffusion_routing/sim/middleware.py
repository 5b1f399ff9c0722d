"""What stands around every route: counts, faults, the scheduler's death, and the warm-up."""

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sglang_diffusion_routing.sim.worker import Worker

# paths that are answered while a worker warms up (entrypoints/http_server.py, SERVER_WARMUP_BYPASS_PATHS)
BEFORE_WARM = frozenset({"/metrics", "/liveness", "/health", "/health_generate", "/model_info", "/server_info"})
OWN = "/sim/"
ABORT = "sim.abort"  # in the scope: a function that ends the connection; the server puts it there
MOST_PATHS = 1_000  # counted apart


class ReplyCut(Exception):
    """A reply breaks off here: a fault that a test asked for."""


class RequestFailed(Exception):
    """A request fails with an unhandled error: a fault that a test asked for."""


class Gate:
    """Let a request through as the worker's state and faults have it.

    Pure ASGI, so that replies of hundreds of megabytes are not copied on their way out.
    """

    def __init__(self, app: ASGIApp, worker: Worker) -> None:
        self._app = app
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN):
            await self._app(scope, receive, send)
            return
        worker = self._worker
        _count(worker, scope)
        if worker.request_log is not None:
            send = worker.request_log.watched(scope, send)
        await worker.awake.wait()
        if scope["method"] == "POST" and worker.engine.failure is not None:
            await JSONResponse({"error": worker.engine.failure}, status_code=503)(scope, receive, send)
            return
        if scope["path"] not in BEFORE_WARM:
            await worker.warm.wait()
        await self._app(scope, receive, self._faulty(scope, receive, send))

    def _faulty(self, scope: Scope, receive: Receive, send: Send) -> Send:
        """Take the faults meant for this request, and give the sender that carries them out.

        Raises:
            RequestFailed: this one was to fail.
        """
        faults = self._worker.faults
        name = (b"x-sim-worker", self._worker.name.encode("latin-1", "replace"))
        if not faults.applies_to(scope["method"], scope["path"]):
            return _named(send, name)
        if faults.fail_next:
            faults.fail_next -= 1
            raise RequestFailed("a simulated fault")
        if not faults.cut_next:
            return _delayed(_named(send, name), faults.reply_delay_s)
        faults.cut_next -= 1
        if faults.cut_after_bytes == 0:
            return _nothing(scope, receive)
        return _cut(_named(send, name), faults.cut_after_bytes)


def _count(worker: Worker, scope: Scope) -> None:
    key = f"{scope['method']} {scope['path']}"
    if key not in worker.requests and len(worker.requests) >= MOST_PATHS:
        key = "other"
    worker.requests[key] += 1


def _named(send: Send, name: tuple[bytes, bytes]) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], name]
        await send(message)

    return sender


def _delayed(send: Send, seconds: float) -> Send:
    if seconds == 0:
        return send

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(seconds)
        await send(message)

    return sender


def _nothing(scope: Scope, receive: Receive) -> Send:
    """Abort the connection instead of replying."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            scope[ABORT]()
            while (await receive())["type"] != "http.disconnect":  # the rest of the request's body
                pass

    return sender


def _cut(send: Send, after_bytes: int) -> Send:
    """Send so many bytes of the body and then end the connection."""
    left = after_bytes

    async def sender(message: Message) -> None:
        nonlocal left
        if message["type"] != "http.response.body":
            await send(message)
            return
        body = message.get("body", b"")
        if len(body) < left:
            left -= len(body)
            await send(message)
            return
        await send({**message, "body": body[:left], "more_body": True})
        raise ReplyCut

    return sender
