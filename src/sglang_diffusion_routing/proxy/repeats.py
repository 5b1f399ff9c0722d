"""Requests under way by their Idempotency-Key, so that a repeat joins the first instead of running again."""

from __future__ import annotations

from sglang_diffusion_routing.errors import IdempotencyKeyInUse, IdempotencyKeyReused
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.joined import Joined
from sglang_diffusion_routing.http1.relay import Exchange
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.proxy.terms import QUEUE_TIMEOUT, TENANT

_Key = tuple[bytes | None, ...]


class Repeats:
    """The keyed requests that are queued or running; there are never more of them than of requests.

    Args:
        tenant_field: that tells clients apart, beside `authorization`.
    """

    def __init__(self, tenant_field: bytes = TENANT) -> None:
        self._tenant_field = tenant_field
        self._running: dict[_Key, Exchange] = {}

    def join(self, downstream: DownstreamConnection, head: RequestHead) -> Joined | None:
        """Join the request of the same key, if it is under way.

        Raises:
            IdempotencyKeyReused: the key was given to a different request.
            IdempotencyKeyInUse: the first request's body is not whole yet, or its reply has begun already.
        """
        first = self._running.get(self._key(head))
        if first is None:
            return None
        if _what(first.head) != _what(head):
            raise IdempotencyKeyReused
        joined = first.join(downstream)
        if joined is None:
            raise IdempotencyKeyInUse
        return joined

    def add(self, exchange: Exchange) -> None:
        """Let later requests with this key join."""
        self._running[self._key(exchange.head)] = exchange

    def forget(self, exchange: Exchange) -> None:
        """A request that has a key is over: the key is free."""
        key = self._key(exchange.head)
        if self._running.get(key) is exchange:
            del self._running[key]

    def _key(self, head: RequestHead) -> _Key:
        # Keys of different clients are different keys.
        fields = (b"idempotency-key", b"authorization", b"x-api-key", self._tenant_field)
        return tuple(map(head.field, fields))


def _what(head: RequestHead) -> tuple[object, ...]:
    """Say what is asked for, terms included; for how long a client waits is no part of it."""
    terms = {name: value for name, value in head.router_fields.items() if name != QUEUE_TIMEOUT}
    return head.method, head.target, head.content_length, terms
