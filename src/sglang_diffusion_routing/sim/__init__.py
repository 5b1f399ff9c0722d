"""A simulated SGLang-Diffusion worker: the surface and habits of a real one, real flow-matching numbers, no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.settings import SimSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["SimProcess", "SimSettings", "create_app", "serve"]

# numpy and FastAPI are imported when a worker is made: a command line that only knows of the simulation starts fast


def create_app(settings: SimSettings) -> FastAPI:
    """Build the ASGI application of a simulated worker."""
    from sglang_diffusion_routing.sim.app import create_app as create

    return create(settings)


def serve(settings: SimSettings) -> None:
    """Serve a simulated worker until SIGTERM; see `server.serve`."""
    from sglang_diffusion_routing.sim.server import serve as serve_here

    serve_here(settings)
