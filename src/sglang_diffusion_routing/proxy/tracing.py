"""Tell of requests as traces: a span for each request, below it one for each attempt with its phases.

Names are those of OpenTelemetry's conventions for HTTP where these have one
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/); all others begin with `sglang.router.`. No query, body,
key or prompt is among the attributes.
"""

from __future__ import annotations

import re
from hashlib import sha256

from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.proxy.paths import normal_path
from sglang_diffusion_routing.proxy.routes import CATCH_ALL, CATCH_ALL_SAFE, TUNNEL, Kind
from sglang_diffusion_routing.proxy.story import UNREAD, Story, Try
from sglang_diffusion_routing.spans import PREFIX, Span, TraceContext, Tracer, Value, read_parent
from sglang_diffusion_routing.spans import Kind as End

_READS = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_UNNAMED = frozenset({CATCH_ALL.name, CATCH_ALL_SAFE.name, TUNNEL.name})
"""Routes of which any path may be one."""
_TREES = frozenset({"workers", "weights", "refits", "leases", "docs", "dashboard"})
"""Control paths below which there are names."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._:/#@+-]{1,64}")
"""A group of this form names something; another one may be the prompt itself."""


class Tracing:
    """Makes spans of stories when these are over, so that no request waits for them.

    Args:
        scheme: that clients use.
    """

    def __init__(self, tracer: Tracer, *, scheme: str = "http") -> None:
        self._tracer = tracer
        self._scheme = scheme

    def begun(self, story: Story) -> None:
        """Give the request a place in its client's trace, or in a new one.

        Who reads control asks again and again, and is of interest only to a client that traces.
        """
        head = story.head
        state = b",".join(head_line.partition(b":")[2].strip() for head_line in head.lines if _is_state(head_line))
        parent = read_parent(head.traceparent, state.decode("latin-1"))
        if parent is None and story.route.kind is Kind.CONTROL and (head.method in _READS or story.route is UNREAD):
            return
        story.parent, story.trace = parent, self._tracer.place(parent)
        if story.trace is None and parent is None:
            # The worker is to be spared as well; by itself it would record all that nobody has decided about.
            story.trace = self._tracer.unrecorded()

    def tried(self, story: Story, one: Try) -> None:
        """Give the attempt a place that its worker learns of."""
        if story.trace is not None:
            one.trace = self._tracer.under(story.trace)

    def given_back(self, story: Story, one: Try) -> None:
        """Tell of an attempt, or of the job that has come of it."""
        if story.trace is None or not story.trace.is_sampled or one.ended_s is None:
            return
        if one.job is None:
            self._attempt(story, story.trace, one, one.ended_s)
        else:
            self._job(story.trace, one, one.ended_s)

    def ended(self, story: Story) -> None:
        """Tell of a request."""
        trace = story.trace
        if trace is None or not trace.is_sampled:
            return
        for one in story.tries:
            if one.job is not None:
                self._attempt(story, trace, one, story.ended_s)
        head, error = story.head, story.error
        method, route = head.method.decode("latin-1"), _route_of(story)
        failed = None
        if story.status >= 500:
            failed = error.code if error is not None else str(story.status)
        elif story.left_s is not None:
            failed = "client_left"
        name = f"{method} {route}" if route else method
        said = _request_attributes(story, method, route)
        said["url.scheme"] = self._scheme
        if failed is not None:
            said["error.type"] = failed
        self._tracer.record(
            Span(name, trace, story.parent, story.arrived_s, story.client_ended_s, End.SERVER, said, failed)
        )

    def _attempt(self, story: Story, trace: TraceContext, one: Try, ended_s: float) -> None:
        """Tell of one attempt and its phases."""
        place, lease = one.trace, one.lease
        if place is None:
            return
        if lease.queued_s:
            self._phase("queue", trace, lease.granted_s - lease.queued_s, lease.granted_s)
        url, result = lease.worker.url, one.result
        said: dict[str, Value] = {
            "http.request.method": story.head.method.decode("latin-1"),
            "server.address": url.host,
            "server.port": url.port,
            PREFIX + "worker": str(url),
            PREFIX + "attempt": story.tries.index(one) + 1,
            PREFIX + "weight_version": "unknown" if one.weights is None else one.weights,
        }
        if one.status:
            said["http.response.status_code"] = one.status
        if one.is_copy:
            said[PREFIX + "hedge"] = True
        failed = None
        if result is not None:
            said[PREFIX + "result"] = result.name.lower()
            if result is not Result.OK:
                failed = said["error.type"] = result.name.lower()
        self._tracer.record(Span("attempt", place, trace, lease.granted_s, ended_s, End.CLIENT, said, failed))
        if one.connecting_s is not None:
            self._phase("connect", place, one.connecting_s, ended_s if one.sent_s is None else one.sent_s)
        if one.sent_s is not None:
            self._phase("generate", place, one.sent_s, ended_s if one.head_s is None else one.head_s)
        if one.head_s is not None:
            self._phase("relay", place, one.head_s, ended_s)

    def _job(self, trace: TraceContext, one: Try, ended_s: float) -> None:
        """Tell of a job, which has gone on after the reply that named it."""
        assert one.job is not None
        failed = None if one.result is Result.OK else "lost"
        began_s = one.lease.granted_s if one.head_s is None else one.head_s
        said: dict[str, Value] = {PREFIX + "worker": str(one.lease.worker.url), PREFIX + "job.kind": one.job}
        self._tracer.record(Span("job", self._tracer.under(trace), trace, began_s, ended_s, End.INTERNAL, said, failed))

    def _phase(self, name: str, parent: TraceContext, began_s: float, ended_s: float) -> None:
        self._tracer.record(Span(name, self._tracer.under(parent), parent, began_s, ended_s))


def _request_attributes(story: Story, method: str, route: str) -> dict[str, Value]:
    head, now = story.head, story.now
    said: dict[str, Value] = {
        "http.request.method": method,
        "url.path": shown_path(story),
        "client.address": story.client[0],
        "client.port": story.client[1],
        "network.protocol.version": "1.0" if head.http_10 else "1.1",
        "http.request.body.size": story.body_bytes,
        "http.response.body.size": story.reply_bytes,
        PREFIX + "request_id": story.request_id,
        PREFIX + "route": story.route.name,
    }
    if route:
        said["http.route"] = route
    if story.status:
        said["http.response.status_code"] = story.status
    if story.error is not None:
        said[PREFIX + "code"] = story.error.code
    if now is not None:
        spec = now.lease.spec
        said[PREFIX + "worker"] = str(now.lease.worker.url)
        said[PREFIX + "weight_version"] = "unknown" if now.weights is None else now.weights
        said[PREFIX + "queue_seconds"] = story.queued_s
        said[PREFIX + "cost_mpx_steps"] = spec.cost_mpx_steps
        said[PREFIX + "attempts"] = len(story.tries)
        if spec.group:
            said[PREFIX + "group"] = shown_group(spec.group)
        if spec.tenant:
            said[PREFIX + "tenant"] = spec.tenant
    elif story.worker is not None:
        said[PREFIX + "worker"] = str(story.worker.url)
    return said


def shown_path(story: Story) -> str:
    """Give the path as it came, without its query: that may hold anything."""
    return story.head.path.decode("utf-8", "backslashreplace")


def shown_group(group: str) -> str:
    """Give a group's name, or its digest where it may be more than a name: trainers have used the prompt."""
    return group if _PLAIN_NAME.fullmatch(group) else f"sha256:{sha256(group.encode()).hexdigest()[:16]}"


def _is_state(line: bytes) -> bool:
    return line[:11].lower() == b"tracestate:"


def _route_of(story: Story) -> str:
    """Give the path with names for what differs from request to request; "" where any path would do."""
    route = story.route
    if route.name in _UNNAMED:
        return ""
    path = normal_path(story.head.path).decode("utf-8", "backslashreplace")
    if route.kind is Kind.JOB:
        return f"/v1/{route.job_kind}/{{id}}{'/content' if path.endswith('/content') else ''}"
    if route.kind is Kind.CONTROL:
        tree, slash, name = path[1:].partition("/")
        return f"/{tree}/{{id}}" if slash and name and tree in _TREES else path
    return path
