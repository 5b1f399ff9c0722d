"""What a piece of work asks for: read from its head, and from the first bytes of its body."""

from __future__ import annotations

from abc import abstractmethod

from sglang_diffusion_routing.core.cost import cost_of
from sglang_diffusion_routing.core.work import Lease, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.http1.chunks import decoded
from sglang_diffusion_routing.http1.relay import Exchange
from sglang_diffusion_routing.http1.sending import READ_AHEAD_BYTES
from sglang_diffusion_routing.proxy.identity import digest_of
from sglang_diffusion_routing.proxy.peek import named_model
from sglang_diffusion_routing.proxy.routes import Route
from sglang_diffusion_routing.proxy.shape import LOOK_BYTES, Fields, fields_of
from sglang_diffusion_routing.proxy.shared import MAX_SPECS, Shared
from sglang_diffusion_routing.proxy.terms import (
    WORKER,
    group,
    min_version,
    priority,
    queue_timeout_s,
    stated_cost,
    tenant,
    worker,
)


class Asking(Exchange):
    """A request that needs a worker's time, up to its asking for it."""

    # As in `Clients`: `Work` sets them all.
    __slots__ = ("_avoid", "_fields", "_lease", "_model", "_next_look_bytes", "_route", "_shared", "_ticket")

    _shared: Shared
    _route: Route
    _lease: Lease | None
    _ticket: Ticket | None
    _model: str | None
    _fields: Fields | None
    _next_look_bytes: int
    _avoid: frozenset[WorkerId]

    @abstractmethod
    def _ask(self) -> None:
        """Ask for a lease on these terms, now that they are known."""

    def on_body(self) -> None:
        if self._ticket is not None or self._lease is not None:
            return
        head = self.head
        if head.has_body:
            # However its body is cut into chunks, the same request is to be seen to be the same.
            if self._shared.hashes and not self._seen(READ_AHEAD_BYTES if head.chunked else LOOK_BYTES):
                return
            if self._route.usual is not None:
                if not (self.body_done or self._seen(LOOK_BYTES)):
                    return
                body = self._body()
                # No form begins with a brace, and finding a field costs as much as reading a small body.
                content_type = None if body.startswith(b"{") else head.field(b"content-type")
                self._fields = fields_of(body, content_type, whole=self.body_done)
            # Whoever names the worker has chosen its model with it.
            if self._shared.leases.scheduler.model_matters and not self._is_pinned:
                # Each look reads all there is: look when that has doubled, or a trickle would cost its square.
                if not self._seen(READ_AHEAD_BYTES) and self.body_bytes < self._next_look_bytes:
                    return
                self._next_look_bytes = 2 * self.body_bytes
                self._model = named_model(self._body(), head.field(b"content-type") or b"")
                if self._model is None and not self._seen(READ_AHEAD_BYTES):
                    return
        self._ask()

    def _seen(self, enough_bytes: int) -> bool:
        # With an expectation the body comes only after a worker has said 100.
        return self.body_done or self.body_bytes >= enough_bytes or self.head.expects_continue

    def _body(self) -> bytes:
        """Give what there is of the body."""
        spans = self._kept or ()
        raw = spans[0] if len(spans) == 1 else b"".join(spans)
        return decoded(raw) if self.head.chunked else raw

    @property
    def _is_pinned(self) -> bool:
        """Whether the client has named the one worker that may do it."""
        return WORKER in self.head.router_fields

    def _spec(self) -> WorkSpec:
        """Say what is asked for; plain requests share theirs, for making one costs as much as finding a worker."""
        shared, head, fields = self._shared, self.head, self._fields
        length = head.content_length or 0
        body_bytes = READ_AHEAD_BYTES if length > READ_AHEAD_BYTES or head.chunked else length
        size_kib = (head.size_bytes + body_bytes + 1023) // 1024
        if (
            # The client has a name for this request, by which it may be dropped from the queue, or terms.
            head.request_id is not None
            or head.router_fields
            or shared.own_terms
            or fields is None
            or self._model is not None
            or self._avoid
            or shared.hashes
        ):
            return self._make_spec(size_kib, self._deadline_s())
        key = (self._route.name, size_kib, fields)
        spec = shared.specs.get(key)
        if spec is None:
            if len(shared.specs) >= MAX_SPECS:
                shared.specs.clear()
            spec = shared.specs[key] = self._make_spec(size_kib, None)
        return spec

    def _deadline_s(self) -> float | None:
        """Give the instant at which waiting ends: the sooner of what the client and the settings say."""
        asked_s, limit_s = queue_timeout_s(self.head), self._shared.queue_timeout_s
        timeout_s = limit_s if asked_s is None or (limit_s is not None and limit_s < asked_s) else asked_s
        return None if timeout_s is None else self._shared.leases.now_s() + timeout_s

    def _make_spec(self, size_kib: int, deadline_s: float | None) -> WorkSpec:
        route = self._route
        cost_mpx_steps, cost_known = self._cost()
        group_name, is_spread = group(self.head)
        return WorkSpec(
            needs=route.needs,
            route=route.name,
            model=self._model,
            creates_job=route.creates_job,
            skips_queue=route.safe,
            size_bytes=size_kib * 1024,
            deadline_s=deadline_s,
            avoid=self._avoid,
            worker=worker(self.head),
            priority=priority(self.head),
            # Reads generate nothing, so no weights matter to them.
            min_version=None if route.safe else min_version(self.head),
            cost_mpx_steps=cost_mpx_steps,
            cost_known=cost_known,
            request_id=(self.head.request_id or b"").decode("latin-1"),
            group=group_name,
            tenant=tenant(self.head, self._shared.tenant_field),
            spread=is_spread,
            digest=self._digest() if self._shared.hashes and not route.safe else b"",
        )

    def _digest(self) -> bytes:
        """Give what tells this request from others, as far as what it is to make goes."""
        head = self.head
        return digest_of(self._body(), head.field(b"content-type") or b"", whole=self.body_done)

    def _cost(self) -> tuple[float, bool]:
        """Give the work in megapixel-steps, and whether that is more than a guess."""
        stated = stated_cost(self.head)
        if stated is not None:
            return stated, True
        route, usual = self._route, self._route.usual
        if usual is None or self._fields is None:
            return self._shared.leases.scheduler.costs.usual(route.name, self._model), False
        return cost_of(dict(self._fields), usual), True
