"""The settings that bound a client, as its connections read them."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_diffusion_routing.http1.conversation import Limits
from sglang_diffusion_routing.settings import Settings


@dataclass(frozen=True, slots=True)
class _ClientLimits:
    """Those of the settings, whose own attributes cost 20 times more to read."""

    max_head_bytes: int
    max_uri_bytes: int
    client_head_timeout_s: float
    client_idle_timeout_s: float
    client_body_timeout_s: float
    client_body_min_bytes: int
    stall_timeout_s: float


def limits_of(settings: Settings) -> Limits:
    """Give the limits that the settings ask for."""
    return _ClientLimits(
        max_head_bytes=settings.max_head_bytes,
        max_uri_bytes=settings.max_uri_bytes,
        client_head_timeout_s=settings.client_head_timeout_s,
        client_idle_timeout_s=settings.client_idle_timeout_s,
        client_body_timeout_s=settings.client_body_timeout_s,
        client_body_min_bytes=settings.client_body_min_bytes,
        stall_timeout_s=settings.stall_timeout_s,
    )
