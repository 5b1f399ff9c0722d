"""OpenAI's images: make, edit, fetch."""

import base64
import hashlib
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict

from sglang_diffusion_routing.sim import png
from sglang_diffusion_routing.sim.routes.common import (
    MOST_OUTPUTS,
    TheWorker,
    bad_request,
    padding,
    plan_of,
    require_image_input,
    require_output,
    stamp,
)
from sglang_diffusion_routing.sim.sampler import Plan, Sample
from sglang_diffusion_routing.sim.worker import Worker

router = APIRouter(prefix="/v1/images")


class ImageGenerationsRequest(BaseModel):
    """The fields that the simulation reads; all others are taken and ignored, as unknown ones are by a real worker."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    model: str | None = None
    n: int | None = 1
    response_format: str | None = "url"
    size: str | None = "1024x1024"
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    seed: int | list[int] | None = None


@router.post("/generations")
async def generations(body: ImageGenerationsRequest, worker: TheWorker) -> JSONResponse:
    """Make images; an error of the engine is an unhandled one: 500 text/plain and a closed socket."""
    response_format = _response_format(body.response_format)
    require_output(worker.settings.profile, "IMAGE")
    require_image_input(worker.settings.profile, has_image=False)
    plan = plan_of(
        worker.settings.profile,
        body.prompt,
        size=body.size,
        width=body.width,
        height=body.height,
        steps=body.num_inference_steps,
        outputs=max(1, min(body.n or 1, MOST_OUTPUTS)),
        seed=body.seed,
    )
    return await _answer(worker, plan, response_format, body.prompt)


@router.post("/edits")
async def edits(  # noqa: PLR0913, PLR0917 - one for each field of the form
    worker: TheWorker,
    prompt: Annotated[str, Form()],
    image: Annotated[list[UploadFile] | None, File()] = None,
    image_array: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
    url: Annotated[list[str] | None, Form()] = None,
    url_array: Annotated[list[str] | None, Form(alias="url[]")] = None,
    n: Annotated[int | None, Form()] = 1,
    response_format: Annotated[str | None, Form()] = None,
    size: Annotated[str | None, Form()] = None,
    seed: Annotated[int | None, Form()] = None,
    num_inference_steps: Annotated[int | None, Form()] = None,
) -> JSONResponse:
    """Edit an image: the simulated model means something else by the prompt for each image it is given."""
    chosen_format = _response_format(response_format or "b64_json")
    images, urls = image or image_array or [], url or url_array or []
    if not images and not urls:
        raise HTTPException(status_code=422, detail="Field 'image' or 'url' is required")
    require_output(worker.settings.profile, "IMAGE")
    require_image_input(worker.settings.profile, has_image=True)
    sources = [hashlib.sha256(await upload.read()).hexdigest() for upload in images] + urls
    plan = plan_of(
        worker.settings.profile,
        " ".join([prompt, *sources]),
        size=size,
        steps=num_inference_steps,
        outputs=max(1, min(n or 1, MOST_OUTPUTS)),
        seed=seed,
    )
    return await _answer(worker, plan, chosen_format, prompt)


@router.get("/{image_id}/content")
async def content(image_id: str, worker: TheWorker, variant: Annotated[str | None, Query()] = None) -> FileResponse:
    """Send an image's file."""
    job = worker.images.get(image_id)
    if job is None:
        raise HTTPException(status_code=404, detail="Image not found")
    paths: list[str] = job["file_paths"]
    index = 0 if variant is None else int(variant) if variant.isdecimal() else -1
    if not 0 <= index < len(paths):
        raise HTTPException(status_code=404, detail=f"Image variant {variant} not found")
    path = Path(paths[index])
    return FileResponse(path, media_type="image/png", filename=path.name, headers={"x-sim-weights": job["weights"]})


def _response_format(wanted: str | None) -> str:
    chosen = (wanted or "b64_json").lower()
    if chosen not in {"url", "b64_json"}:
        raise bad_request(f"response_format={chosen} is not supported")
    return chosen


async def _answer(worker: Worker, plan: Plan, response_format: str, prompt: str) -> JSONResponse:
    image_id = str(uuid.uuid4())

    def finish(samples: list[Sample], seconds: float) -> dict[str, Any]:
        paths = _save(worker, image_id, samples)
        data = [
            {
                "b64_json": base64.b64encode(path.read_bytes()).decode() if response_format == "b64_json" else None,
                "url": _url(image_id, index, len(paths)) if response_format == "url" else None,
                "revised_prompt": prompt,
                "file_path": str(path),
                "resize": None,
            }
            for index, path in enumerate(paths)
        ]
        reply: dict[str, Any] = {"id": image_id, "created": int(time.time()), "data": data}
        reply |= {"peak_memory_mb": None, "inference_time_s": seconds, "usage": None}
        if worker.settings.pad_reply_bytes:
            reply["sim_padding"] = base64.b64encode(padding(worker)).decode()
        return reply

    made = await worker.generate("image", image_id, plan, finish)
    paths = [entry["file_path"] for entry in made.value["data"]]
    worker.images.put(
        {"id": image_id, "created_at": made.value["created"], "file_paths": paths, "weights": made.weights}
    )
    return JSONResponse(made.value, headers=stamp(made))


def _save(worker: Worker, image_id: str, samples: list[Sample]) -> list[Path]:
    names = [f"{image_id}.png"] if len(samples) == 1 else [f"{image_id}_{i}.png" for i in range(len(samples))]
    paths = [worker.outputs.path / name for name in names]
    for path, made in zip(paths, samples, strict=True):
        path.write_bytes(png.encode(png.to_bytes(made.colours)))
    return paths


def _url(image_id: str, index: int, count: int) -> str:
    path = f"/v1/images/{image_id}/content"
    return path if count == 1 else f"{path}?variant={index}"
