"""What several families of routes share: the worker, request ids, stamps, and the checks of sampling parameters."""

from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse

from sglang_diffusion_routing.sim.profiles import Profile
from sglang_diffusion_routing.sim.sampler import Plan, RolloutPlan
from sglang_diffusion_routing.sim.worker import Made, Worker

DEFAULT_SEED = 42  # configs/sample/sampling_params.py
MOST_OUTPUTS = 10
PADDING_BLOCK = bytes(range(256)) * 256


def _worker(connection: HTTPConnection) -> Worker:
    worker: Worker = connection.app.state.worker
    return worker


TheWorker = Annotated[Worker, Depends(_worker)]


def stamp(made: Made[Any]) -> dict[str, str]:
    """Give the header that says on which weights a reply's work ran."""
    return {"x-sim-weights": made.weights}


def refused(message: str, status: int = 400) -> JSONResponse:
    """Answer a control call that did not succeed."""
    return JSONResponse({"success": False, "message": message}, status_code=status)


def padding(worker: Worker) -> bytes:
    """Give the bytes that `--pad-reply-bytes` asks for."""
    size = worker.settings.pad_reply_bytes
    return (PADDING_BLOCK * (size // len(PADDING_BLOCK) + 1))[:size]


def bad_request(message: str) -> HTTPException:
    """Refuse what the client sent."""
    return HTTPException(status_code=400, detail=message)


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
    if isinstance(seed, list):
        if len(seed) != outputs:
            raise bad_request(f"seed must have one entry per output, got {len(seed)} for {outputs} outputs")
        return tuple(seed)
    first = DEFAULT_SEED if seed is None else seed
    return tuple(range(first, first + outputs))


def _parse_size(size: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in size.lower().replace(" ", "").split("x"))
    except ValueError:
        width, height = 0, 0
    if width <= 0 or height <= 0:
        raise bad_request("size must be formatted as positive WIDTHxHEIGHT")
    return width, height


def client_header(request: Request, name: str) -> str:
    """Read one request header, lower-cased; empty when it is absent."""
    return request.headers.get(name, "").lower()
