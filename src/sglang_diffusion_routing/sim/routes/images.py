"""OpenAI's images: make, edit, fetch."""

import base64
import hashlib
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse, JSONResponse

from sglang_diffusion_routing.sim import pictures
from sglang_diffusion_routing.sim.jobs import Job
from sglang_diffusion_routing.sim.routes.bodies import ImageGenerationsRequest
from sglang_diffusion_routing.sim.routes.common import (
    MOST_OUTPUTS,
    TheWorker,
    bad_request,
    file_of,
    found,
    padding,
    plan_of,
    require_image_input,
    require_output,
    stamp,
)
from sglang_diffusion_routing.sim.sampler import Plan, Sample
from sglang_diffusion_routing.sim.worker import Worker

router = APIRouter(prefix="/v1/images")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How a reply is to carry its images: `url` or `b64_json`, and files of which kind."""

    response_format: str
    suffix: str
    quality: int | None


@router.post("/generations")
async def generations(body: ImageGenerationsRequest, worker: TheWorker) -> JSONResponse:
    """Make images; an error of the engine is an unhandled one: 500 text/plain and a closed socket."""
    wanted = _wanted(body.response_format, body.output_format, body.background, body.output_compression)
    profile = worker.settings.profile
    require_output(profile, "IMAGE")
    plan = plan_of(
        profile,
        body.prompt,
        size=body.size,
        width=body.width,
        height=body.height,
        steps=body.num_inference_steps,
        outputs=max(1, min(body.n or 1, MOST_OUTPUTS)),
        seed=body.seed,
    )
    require_image_input(profile, has_image=False)
    return await _answer(worker, plan, wanted, body.prompt)


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
    output_format: Annotated[str | None, Form()] = None,
    background: Annotated[str | None, Form()] = "auto",
    output_compression: Annotated[int | None, Form()] = None,
) -> JSONResponse:
    """Edit an image: the simulated model means something else by the prompt for each image it is given."""
    wanted = _wanted(response_format, output_format, background, output_compression)
    images, urls = image or image_array or [], url or url_array or []
    if not images and not urls:
        raise HTTPException(status_code=422, detail="Field 'image' or 'url' is required")
    profile = worker.settings.profile
    require_output(profile, "IMAGE")
    sources = [hashlib.sha256(await upload.read()).hexdigest() for upload in images] + urls
    plan = plan_of(
        profile,
        " ".join([prompt, *sources]),
        size=size,
        steps=num_inference_steps,
        outputs=max(1, min(n or 1, MOST_OUTPUTS)),
        seed=seed,
    )
    require_image_input(profile, has_image=True)
    return await _answer(worker, plan, wanted, prompt)


@router.get("/{image_id}/content")
async def content(image_id: str, worker: TheWorker, variant: Annotated[str | None, Query()] = None) -> FileResponse:
    """Send an image's file."""
    job = found(worker.images.get(image_id), "Image")
    return file_of(job, "Image", variant, pictures.MEDIA_TYPES[job.files[0].suffix[1:]])


def _wanted(
    response_format: str | None, output_format: str | None, background: str | None, quality: int | None
) -> _Wanted:
    chosen = (response_format or "b64_json").lower()
    if chosen not in {"url", "b64_json"}:
        raise bad_request(f"response_format={chosen} is not supported")
    return _Wanted(chosen, pictures.suffix_for(output_format, background), quality)


async def _answer(worker: Worker, plan: Plan, wanted: _Wanted, prompt: str) -> JSONResponse:
    image_id = str(uuid.uuid4())
    files = worker.outputs.files(image_id, wanted.suffix, len(plan.seeds))

    def finish(samples: list[Sample], _seconds: float) -> list[bytes]:
        images = [pictures.encode(made.colours(), wanted.suffix, wanted.quality) for made in samples]
        for path, image in zip(files, images, strict=True):
            path.write_bytes(image)
        return images

    made = await worker.generate("image", image_id, plan, finish)
    created = int(time.time())
    worker.images.put(Job({"id": image_id, "created_at": created}, files, made.weights))
    data = [
        {
            "b64_json": base64.b64encode(image).decode() if wanted.response_format == "b64_json" else None,
            "url": _url(image_id, index, len(files)) if wanted.response_format == "url" else None,
            "revised_prompt": prompt,
            "file_path": str(files[index]),
            "resize": None,
        }
        for index, image in enumerate(made.value)
    ]
    reply: dict[str, Any] = {"id": image_id, "created": created, "data": data}
    reply |= {"peak_memory_mb": None, "inference_time_s": made.seconds, "usage": None}
    if worker.settings.pad_reply_bytes:
        reply["sim_padding"] = base64.b64encode(padding(worker)).decode()
    return JSONResponse(reply, headers=stamp(made.weights))


def _url(image_id: str, index: int, count: int) -> str:
    path = f"/v1/images/{image_id}/content"
    return path if count == 1 else f"{path}?variant={index}"
