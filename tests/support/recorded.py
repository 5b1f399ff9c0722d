"""Spans as they are recorded."""

from sglang_diffusion_routing.spans import Span, Tracer, Value


class Recorded:
    """Keeps what is recorded. tracer: records here, all of it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.tracer = Tracer(self)

    def record(self, span: Span) -> None:
        self.spans.append(span)

    def said(self, name: str) -> list[tuple[dict[str, Value], str | None]]:
        """Give what spans of a name say, without the common beginning, and why they have failed."""
        return [
            ({key.removeprefix("sglang.router."): value for key, value in span.attributes.items()}, span.error)
            for span in self.spans
            if span.name == name
        ]
