"""The ASGI application of a simulated worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from sglang_diffusion_routing.sim.middleware import Gate
from sglang_diffusion_routing.sim.routes import (
    control,
    health,
    images,
    loras,
    meshes,
    native,
    realtime,
    rollout,
    vertex,
    videos,
    weights,
)
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.worker import Worker

FAMILIES = (health, vertex, loras, images, videos, realtime, meshes, weights, rollout, native, control)


def build(worker: Worker) -> FastAPI:
    """Build the application around a worker, layered as a real one (entrypoints/http_server.py, `create_app`).

    CORS is inside the gate, and both are inside Starlette's handler of unhandled errors: so a 500 of that handler and
    the 503 of a dead scheduler carry no `vary: Origin`.
    """
    app = FastAPI(lifespan=_lifespan)
    app.state.worker = worker
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
    )
    app.add_middleware(Gate, worker=worker)
    for family in FAMILIES:
        app.include_router(family.router)
    # FastAPI compiles routes at their first use, which is not safe in two threads at once; this compiles them now.
    app.openapi()
    return app


def create_app(settings: SimSettings) -> FastAPI:
    """Build a worker and its application; the worker is `app.state.worker`."""
    return build(Worker(settings))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    worker: Worker = app.state.worker
    loop = asyncio.get_running_loop()
    warmup = loop.call_later(worker.settings.warmup_seconds, worker.warm.set)
    try:
        yield
    finally:
        warmup.cancel()
        worker.close()
