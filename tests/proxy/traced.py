"""A data plane whose requests are traced, with the spans in the order in which they were recorded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from http1.peers import eventually
from proxy.world import World, world
from sglang_diffusion_routing.proxy.tracing import Tracing
from sglang_diffusion_routing.spans import Span, Tracer

CLIENT_TRACE, CLIENT_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"traceparent: 00-{CLIENT_TRACE}-{CLIENT_SPAN}-01".encode()
UNSAMPLED = f"traceparent: 00-{CLIENT_TRACE}-{CLIENT_SPAN}-00".encode()


class Recorded:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def record(self, span: Span) -> None:
        self.spans.append(span)

    async def until(self, name: str, number: int = 1) -> list[Span]:
        """Wait for so many spans of a name; gives these."""
        await eventually(lambda: len(self.named(name)) >= number)
        return self.named(name)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def tree(self) -> dict[str, object]:
        """Give the names of spans below those of their parents; alike ones are listed once, with their number."""
        by_id = {span.context.span_id: span for span in self.spans}
        roots = [span for span in self.spans if span.parent is None or span.parent.span_id not in by_id]
        return self._below(roots)

    def _below(self, spans: list[Span]) -> dict[str, object]:
        tree: dict[str, object] = {}
        for span in sorted(spans, key=lambda one: (one.began_s, one.ended_s)):
            name = span.name
            while name in tree:
                name += "'"
            children = [
                one for one in self.spans if one.parent is not None and one.parent.span_id == span.context.span_id
            ]
            tree[name] = self._below(children)
        return tree


@asynccontextmanager
async def traced(workers: int = 1, percent: float = 100.0, **options: Any) -> AsyncIterator[tuple[World, Recorded]]:
    """Start a data plane that traces."""
    recorded = Recorded()
    async with world(workers, tellers=[Tracing(Tracer(recorded, percent=percent))], **options) as one:
        yield one, recorded


def parent_in(head: bytes) -> list[str]:
    """Give the places in traces that a request's head names: trace, span and flags of each."""
    lines = head.lower().split(b"\r\n")
    return [line.partition(b":")[2].strip().decode() for line in lines if line.startswith(b"traceparent:")]
