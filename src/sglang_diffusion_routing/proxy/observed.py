"""Requests whose story is kept: each step notes its instant, and does what it does otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from sglang_diffusion_routing.core.work import Lease
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.phase import Phase
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.http1.turns import Held
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from sglang_diffusion_routing.proxy.attempt import Attempt
from sglang_diffusion_routing.proxy.calls import Call, ControlCall, JobCall
from sglang_diffusion_routing.proxy.ports import Gallery
from sglang_diffusion_routing.proxy.routes import Route
from sglang_diffusion_routing.proxy.shared import Shared
from sglang_diffusion_routing.proxy.shown import ShownWork
from sglang_diffusion_routing.proxy.story import Stories, Story
from sglang_diffusion_routing.proxy.work import Work
from sglang_diffusion_routing.spans import TraceContext

_TRACEPARENT = re.compile(rb"\r\ntraceparent:[^\r\n]*", re.IGNORECASE)
_TRACESTATE = re.compile(rb"\r\ntracestate:[^\r\n]*", re.IGNORECASE)


def placed(head: bytes, trace: TraceContext, parent: TraceContext | None) -> bytes:
    """Put a place in a trace into a request's head instead of what is there.

    Args:
        parent: the client's own place; without one what its `tracestate` says is of no trace that goes on.
    """
    head = _TRACEPARENT.sub(b"", head)
    if parent is None:
        head = _TRACESTATE.sub(b"", head)
    return b"%btraceparent: %b\r\n\r\n" % (head[:-2], trace.header())


class ObservedWork(Work):
    """Work of which is told."""

    # Without slots, so that other kinds of work can be of this kind as well.

    def __init__(
        self,
        shared: Shared,
        downstream: DownstreamConnection,
        head: RequestHead,
        route: Route,
        *,
        stories: Stories,
        **more: Any,
    ) -> None:
        super().__init__(shared, downstream, head, route, **more)
        self._stories = stories
        self._story = stories.begin(head, route, downstream, self.request_id)

    def _go(self, lease: Lease) -> None:
        self._story.now = self._stories.attempt(self._story, lease)
        super()._go(lease)

    def _open(self, worker: Worker) -> None:
        one = self._story.now
        if one is not None:
            one.connecting_s = self._stories.now_s()
        super()._open(worker)

    def start(self, upstream: UpstreamConnection) -> None:
        one = self._story.now
        if one is not None:
            one.sent_s = self._stories.now_s()
        super().start(upstream)

    def upstream_head(self, worker_id: WorkerId) -> bytes:
        written = super().upstream_head(worker_id)
        one = self._story.now
        return written if one is None or one.trace is None else placed(written, one.trace, self._story.parent)

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        one = self._stories.of(self._lease)
        if one is not None:
            one.head_s, one.status = self._stories.now_s(), head.status
        super().reply_began(head, span, done)

    # two attempts

    def copy_to(self, lease: Lease) -> None:
        story = self._story
        own, copy = story.now, self._stories.attempt(story, lease, is_copy=True)
        copy.connecting_s = self._stories.now_s()
        story.now = copy
        super().copy_to(lease)
        story.now = own

    def attempt_sent(self, attempt: Attempt) -> None:
        one = self._stories.of(attempt.lease)
        if one is not None:
            one.sent_s = self._stories.now_s()
        super().attempt_sent(attempt)

    def _adopt(self, attempt: Attempt) -> None:
        super()._adopt(attempt)
        self._story.now = self._stories.of(attempt.lease)

    # the end

    def _hand_over_job(self, body: bytes) -> Held:
        one = self._stories.of(self._lease)
        fate = super()._hand_over_job(body)
        if one is not None and self._lease is None:
            one.job = self._route.creates
        return fate

    def _nobody_left(self) -> None:
        self._story.left_s = self._stories.now_s()
        super()._nobody_left()
        if self.phase is not Phase.ENDED and self.head.idempotency_key is None:
            # The worker goes on for hours perhaps, and the client cannot come back.
            self._tell()

    def on_rejoined(self) -> None:
        self._story.left_s = None
        super().on_rejoined()

    def fail(self, error: RouterError) -> None:
        story = self._story
        story.error = error
        super().fail(error)
        if self.phase is not Phase.ENDED:
            # Another attempt goes on.
            story.error = None

    def fail_and_await(self, error: RouterError) -> None:
        self._story.error = error
        super().fail_and_await(error)

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        super().on_end(whole=whole, head=head)
        self._tell()

    def _tell(self) -> None:
        self._story.queued_s = self._queued_s
        _tell(self._stories, self._story, self, self._status)


class ObservedShownWork(ObservedWork, ShownWork):
    """Work of which is told, and whose images are shown."""


class _ObservedCall(Call):
    """A request without a lease of which is told."""

    def __init__(
        self,
        shared: Shared,
        downstream: DownstreamConnection,
        head: RequestHead,
        route: Route,
        *,
        stories: Stories,
    ) -> None:
        super().__init__(shared, downstream, head, route)
        self._stories = stories
        self._story = stories.begin(head, route, downstream, self.request_id)

    def _placed(self, written: bytes) -> bytes:
        story = self._story
        return written if story.trace is None else placed(written, story.trace, story.parent)

    def client_gone(self) -> None:
        self._story.left_s = self._stories.now_s()
        super().client_gone()

    def fail(self, error: RouterError) -> None:
        self._story.error = error
        super().fail(error)

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        super().on_end(whole=whole, head=head)
        _tell(self._stories, self._story, self, self._status)


class ObservedControlCall(_ObservedCall, ControlCall):
    """A control request of which is told."""

    def upstream_head(self, worker_id: WorkerId) -> bytes:
        return self._placed(super().upstream_head(worker_id))


class ObservedJobCall(_ObservedCall, JobCall):
    """A request for something that one worker has made, of which is told."""

    def upstream_head(self, worker_id: WorkerId) -> bytes:
        return self._placed(super().upstream_head(worker_id))

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        self._story.worker = self._worker
        super().on_end(whole=whole, head=head)


def _tell(stories: Stories, story: Story, work: Work | Call, status: int) -> None:
    """Have a story told that is over. status: of the worker's reply, if any of it was passed on."""
    story.status = status if story.error is None else story.error.http_status
    story.body_bytes, story.reply_bytes = work.body_bytes, work.reply_bytes
    stories.end(story)


class Kinds(NamedTuple):
    """How the data plane makes what deals with a request."""

    work: Callable[[Shared, DownstreamConnection, RequestHead, Route], Work]
    control_call: Callable[[Shared, DownstreamConnection, RequestHead, Route], ControlCall]
    job_call: Callable[[Shared, DownstreamConnection, RequestHead, Route], JobCall]


def kinds(stories: Stories | None, gallery: Gallery | None) -> Kinds:
    """Choose the classes once, so that what nobody wants costs nothing.

    Args:
        stories: keeps the stories of requests. gallery: shows images as they are made.
    """
    if stories is None:
        work = Work if gallery is None else partial(ShownWork, gallery=gallery)
        return Kinds(work, ControlCall, JobCall)
    return Kinds(
        partial(ObservedWork, stories=stories)
        if gallery is None
        else partial(ObservedShownWork, stories=stories, gallery=gallery),
        partial(ObservedControlCall, stories=stories),
        partial(ObservedJobCall, stories=stories),
    )
