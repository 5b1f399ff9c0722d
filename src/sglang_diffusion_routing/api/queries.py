"""Check queries beyond what the framework does."""

from __future__ import annotations

from fastapi import Request

from sglang_diffusion_routing.errors import InvalidField


def each_once(request: Request) -> None:
    """Refuse a parameter that is given twice: the framework would take the last one without a word.

    Raises:
        InvalidField: naming the parameter.
    """
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name in seen:
            raise InvalidField(name, f"{name!r} is given twice")
        seen.add(name)
