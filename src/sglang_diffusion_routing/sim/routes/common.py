"""What several families of routes share: the worker, stamps, jobs, padding, and the checks of sampling parameters."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.requests import HTTPConnection
from fastapi.responses import FileResponse, JSONResponse

from sglang_diffusion_routing.sim.jobs import Job
from sglang_diffusion_routing.sim.profiles import Profile
from sglang_diffusion_routing.sim.sampler import Plan, RolloutPlan
from sglang_diffusion_routing.sim.worker import Worker

DEFAULT_SEED = 42  # configs/sample/sampling_params.py
MOST_OUTPUTS = 10
PADDING_BLOCK = bytes(range(256)) * 256
STAMP = "x-sim-weights"


def _worker(connection: HTTPConnection) -> Worker:
    worker: Worker = connection.app.state.worker
    return worker


TheWorker = Annotated[Worker, Depends(_worker)]


def stamp(weights: str) -> dict[str, str]:
    """Give the header that says on which weights a reply's work ran; none when it has not run."""
    return {STAMP: weights} if weights else {}


def refused(message: str, status: int = 400) -> JSONResponse:
    """Answer a control call that did not succeed."""
    return JSONResponse({"success": False, "message": message}, status_code=status)


def padding(worker: Worker) -> bytes:
    """Give the bytes that `--pad-reply-bytes` asks for."""
    size = worker.settings.pad_reply_bytes
    return (PADDING_BLOCK * (size // len(PADDING_BLOCK) + 1))[:size]


class SeedsDoNotFit(ValueError):
    """There are not as many seeds as outputs; a worker notices late and answers with an unhandled error."""


def bad_request(message: str) -> HTTPException:
    """Refuse what the client sent."""
    return HTTPException(status_code=400, detail=message)


def found(job: Job | None, noun: str) -> Job:
    """Give the job, or say that there is none: never made here, forgotten and deleted look the same."""
    if job is None:
        raise HTTPException(status_code=404, detail=f"{noun} not found")
    return job


def shown(job: Job) -> JSONResponse:
    """Show a job as it is now."""
    return JSONResponse(job.shown, headers=stamp(job.weights))


def file_of(job: Job, noun: str, variant: str | None, media_type: str) -> FileResponse:
    """Send a file of a completed job, or the range of it that was asked for.

    Args:
        variant: which of several outputs, from 0; None is the first.
    """
    index = 0 if variant is None else int(variant) if variant.isdecimal() else -1
    if not 0 <= index < len(job.files) or not job.files[index].is_file():
        raise HTTPException(status_code=404, detail=f"{noun} variant {variant} not found")
    path: Path = job.files[index]
    return FileResponse(path, media_type=media_type, filename=path.name, headers=stamp(job.weights))


def require_output(profile: Profile, output: str) -> None:
    """Refuse work of a kind that the model does not do.

    Args:
        output: IMAGE, VIDEO or MESH.
    """
    if output not in profile.output_types:
        raise bad_request(
            f"This pipeline does not support {output} output; "
            f"supported task types: {list(profile.supported_task_types)}"
        )


def require_image_input(profile: Profile, *, has_image: bool) -> None:
    """Refuse an input image where none is taken, and its absence where one is needed."""
    if has_image and not profile.accepts_image:
        raise bad_request(f"input_reference is not supported for {profile.task_type} models.")
    if not has_image and profile.task_type in {"I2V", "I2I", "I2M"}:
        raise bad_request(
            f"Served model with task type '{profile.task_type}' requires an 'image_path' input, but none was provided"
        )


def plan_of(  # noqa: PLR0913 - one for each field of a request
    profile: Profile,
    prompt: str,
    *,
    size: str | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    frames: int | None = None,
    outputs: int | None = None,
    seed: int | list[int] | None = None,
    rollout: RolloutPlan | None = None,
) -> Plan:
    """Check sampling parameters as SGLang does (openai/utils.py, `build_sampling_params`) and fill in defaults."""
    if size:
        sized = _parse_size(size)
        width, height = width if width is not None else sized[0], height if height is not None else sized[1]
    for name, value in (
        ("width", width),
        ("height", height),
        ("num_frames", frames),
        ("num_inference_steps", steps),
        ("num_outputs_per_prompt", outputs),
    ):
        if value is not None and value <= 0:
            raise bad_request(f"{name} must be positive")
    makes_video = "VIDEO" in profile.output_types
    return Plan(
        prompt=prompt,
        seeds=_seeds(seed, outputs or 1),
        width=width or profile.width,
        height=height or profile.height,
        steps=steps or profile.steps,
        frames=(frames or profile.frames) if makes_video else None,
        rollout=rollout,
    )


def _seeds(seed: int | list[int] | None, outputs: int) -> tuple[int, ...]:
    """Give the seed of each output (configs/sample/sampling_params.py and pipelines_core/request_utils.py)."""
    if isinstance(seed, list):
        if not seed:
            raise bad_request("seed list must not be empty")
        if any(one < 0 for one in seed):
            raise bad_request(f"seed list must contain non-negative ints, got {seed!r}")
        if len(seed) != outputs:
            raise SeedsDoNotFit(f"{len(seed)} seeds for {outputs} outputs")
        return tuple(seed)
    first = DEFAULT_SEED if seed is None else seed
    if first < 0:
        raise bad_request(f"seed must be a non-negative int or list of ints, got {seed!r}")
    return tuple(range(first, first + outputs))


def _parse_size(size: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in size.lower().replace(" ", "").split("x"))
    except ValueError:
        width, height = 0, 0
    if width <= 0 or height <= 0:
        raise bad_request("size must be formatted as positive WIDTHxHEIGHT")
    return width, height


def is_multipart(request: Request) -> bool:
    """Say whether the body is a form."""
    return "multipart/form-data" in request.headers.get("content-type", "").lower()


async def lenient_json(request: Request) -> dict[str, Any]:
    """Read a JSON object; what is none counts as an empty one, as SGLang's job routes have it."""
    try:
        return dict(await request.json() or {})
    except (ValueError, TypeError):
        return {}
