"""What the routes of the control API work on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from sglang_diffusion_routing.control.brackets import Brackets
from sglang_diffusion_routing.control.broadcast import Broadcast
from sglang_diffusion_routing.control.gate import Gate
from sglang_diffusion_routing.control.lists import Lists
from sglang_diffusion_routing.control.membership import Membership
from sglang_diffusion_routing.control.memory import Memory
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.control.weights import Weights
from sglang_diffusion_routing.launchers.supervisor import Supervisor
from sglang_diffusion_routing.metrics.kinds import Samples
from sglang_diffusion_routing.runtime.audit import Audit
from sglang_diffusion_routing.runtime.loop import Fleet
from sglang_diffusion_routing.schemas import RouterInfo
from sglang_diffusion_routing.settings import Settings

if TYPE_CHECKING:
    from sglang_diffusion_routing.runtime.gallery import Gallery


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Every collaborator of the routes.

    samples: reads the counters for a scrape; info: looks at the process, in a thread.
    audit: takes down who has changed what.
    supervisor: keeps the workers running that the router starts; None when it starts none.
    gallery: keeps the last images, small; None when they are not to be shown.
    """

    settings: Settings
    fleet: Fleet
    membership: Membership
    memory: Memory
    broadcast: Broadcast
    refitter: Refitter
    brackets: Brackets
    weights: Weights
    gate: Gate
    lists: Lists
    samples: Callable[[], Awaitable[Samples]]
    info: Callable[[], RouterInfo]
    supervisor: Supervisor | None
    gallery: Gallery | None
    audit: Audit = field(default_factory=Audit)


def _plane(request: Request) -> ControlPlane:
    return cast("ControlPlane", request.app.state.plane)


Plane = Annotated[ControlPlane, Depends(_plane)]
"""A route's parameter of this type is the control plane."""
