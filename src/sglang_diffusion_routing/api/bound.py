"""Have what is logged and traced while a control request is served carry that request's id and place."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_diffusion_routing import logs, spans

SHOWN_MAX_CHARS = 256
"""Of a request id that a client has made up."""


class Bound:
    """Binds the ids that the data plane has made sure of: `x-request-id`, and the trace if that is recorded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        state = headers.get(b"tracestate", b"").decode("latin-1")
        trace = spans.read_parent(headers.get(b"traceparent"), state)
        facts = {"request_id": headers.get(b"x-request-id", b"").decode("latin-1")[:SHOWN_MAX_CHARS]}
        if trace is not None and trace.is_sampled:
            facts["trace_id"] = f"{trace.trace_id:032x}"
        # The task is this request's alone: nothing has to be put back.
        spans.current.set(trace)
        with logs.bound(**{name: value for name, value in facts.items() if value}):
            await self._app(scope, receive, send)
