"""The terms on which a client makes its request: fields that the router reads and no worker sees."""

from __future__ import annotations

import math

from sglang_diffusion_routing.core.cost import COST_MAX, COST_MIN
from sglang_diffusion_routing.errors import InvalidField
from sglang_diffusion_routing.http1.request_head import RequestHead

COST = b"x-sglang-router-cost"
"""States the request's work in megapixel-steps, for bodies that do not say it."""
GROUP = b"x-sglang-router-group"
"""Names the group that a request belongs to, such as all samples of one prompt."""
MIN_VERSION = b"x-sglang-router-min-weight-version"
"""Names the weight version that the worker must have, or a later one."""
VERSION_MAX_CHARS = 256


def group(head: RequestHead) -> str:
    """Give the request's group, empty when it names none."""
    return head.router_fields.get(GROUP, b"").decode("latin-1")


def min_version(head: RequestHead) -> str | None:
    """Give the weight version that the request demands, None when it demands none.

    Raises:
        InvalidField: it is empty, too long, or has characters that cannot be printed.
    """
    raw = head.router_fields.get(MIN_VERSION)
    if raw is None:
        return None
    try:
        version = raw.decode()
    except UnicodeDecodeError:
        # Replies carry versions as Latin-1 (RFC 9110 §5.5 knows no other than that and ASCII).
        version = raw.decode("latin-1")
    if not 0 < len(version) <= VERSION_MAX_CHARS or not version.isprintable():
        name = MIN_VERSION.decode()
        raise InvalidField(name, f"{name} must be a weight version of 1 to {VERSION_MAX_CHARS} printable characters")
    return version


def stated_cost(head: RequestHead) -> float | None:
    """Give the work that the client states, in megapixel-steps; None when it states none.

    Raises:
        InvalidField: it is no positive number.
    """
    raw = head.router_fields.get(COST)
    if raw is None:
        return None
    try:
        cost = float(raw)
    except ValueError:
        cost = math.nan
    if not 0.0 < cost < math.inf:
        name = COST.decode()
        raise InvalidField(name, f"{name} must be a positive number of megapixel-steps")
    return min(max(cost, COST_MIN), COST_MAX)
