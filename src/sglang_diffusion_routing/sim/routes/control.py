"""The simulation's own routes: its state, its faults, and mirrors for the tests of a proxy."""

import hashlib
import os
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError

from sglang_diffusion_routing.sim.routes.common import PADDING_BLOCK, TheWorker
from sglang_diffusion_routing.sim.worker import CannotDie

MOST_BYTES = 1 << 33

router = APIRouter(prefix="/sim", include_in_schema=False)


@router.get("/state")
async def state(worker: TheWorker) -> dict[str, Any]:
    """Show what a real worker hides; answered at once, whatever the engine does.

    `finished` are the last pieces of work in the order of their ends, with Unix times and the transformer's checksum
    that each ran on; `requests` counts what has arrived, by method and path.
    """
    engine = worker.engine
    return {
        "name": worker.name,
        "pid": os.getpid(),
        "gpu_uuid": worker.gpu_uuid,
        "sleeping": worker.sleeping,
        "warm": worker.warm.is_set(),
        "scheduler_failure": engine.failure,
        "queued": engine.queued,
        "running": engine.running,
        "done": engine.done,
        "finished": [asdict(entry) for entry in list(engine.finished)],
        "weights": worker.model.transformer_checksum,
        "requests": dict(worker.requests),
        "faults": worker.faults.model_dump(),
    }


@router.get("/faults")
async def faults(worker: TheWorker) -> dict[str, Any]:
    """Show the faults in force."""
    return worker.faults.model_dump()


@router.post("/faults")
async def set_faults(request: Request, worker: TheWorker) -> dict[str, Any]:
    """Change some faults; an unknown name or a bad value is 422 and changes nothing."""
    body = await request.json()
    try:
        worker.set_faults(**body)
    except (ValidationError, CannotDie, TypeError) as error:
        raise HTTPException(status_code=422, detail=str(error)) from error
    return worker.faults.model_dump()


@router.api_route("/echo", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@router.api_route("/echo/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def echo(request: Request) -> JSONResponse:
    """Describe the request as it arrived: raw target, headers in order with repeats, size and SHA-256 of the body."""
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        digest.update(part)
        size += len(part)
    raw_path: bytes = request.scope["raw_path"]
    return JSONResponse(
        {
            "method": request.method,
            "path": raw_path.decode("latin-1"),
            "query": request.scope["query_string"].decode("latin-1"),
            "http_version": request.scope["http_version"],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.scope["headers"]],
            "body_bytes": size,
            "body_sha256": digest.hexdigest(),
        }
    )


@router.get("/bytes/{size}")
async def some_bytes(size: int, *, chunked: bool = False) -> StreamingResponse:
    """Send this many bytes, with a length or chunked; byte i is i modulo 256."""
    if not 0 <= size <= MOST_BYTES:
        raise HTTPException(status_code=422, detail=f"size must be between 0 and {MOST_BYTES}")

    async def parts() -> Any:
        left = size
        while left:
            part = PADDING_BLOCK[:left]
            left -= len(part)
            yield part

    headers = {} if chunked else {"content-length": str(size)}
    return StreamingResponse(parts(), media_type="application/octet-stream", headers=headers)
