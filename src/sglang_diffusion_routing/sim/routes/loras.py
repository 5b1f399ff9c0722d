"""LoRA adapters: set, merge, unmerge, list."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException

from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.lora import LoraError
from sglang_diffusion_routing.sim.routes.common import TheWorker
from sglang_diffusion_routing.sim.worker import Worker

router = APIRouter(prefix="/v1")


@router.post("/set_lora")
async def set_lora(
    worker: TheWorker,
    lora_nickname: Annotated[str | list[str], Body(embed=True)],
    lora_path: Annotated[str | list[str | None] | None, Body(embed=True)] = None,
    target: Annotated[str | list[str], Body(embed=True)] = "all",
    strength: Annotated[float | list[float], Body(embed=True)] = 1.0,
    merge_mode: Annotated[str | None, Body(embed=True)] = None,  # noqa: ARG001 - taken, and no matter
    lora_alpha: Annotated[int | list[int | None] | None, Body(embed=True)] = None,  # noqa: ARG001
) -> dict[str, str]:
    """Apply adapters, and these only, always merged. What one adds follows from its path's name; a file is not read."""
    nicknames = _listed(lora_nickname, 1)
    paths: list[str | None] = lora_path if isinstance(lora_path, list) else [lora_path] * len(nicknames)
    targets, strengths = _listed(target, len(nicknames)), _listed(strength, len(nicknames))
    await _run(
        worker,
        lambda: worker.model.set_adapters(nicknames=nicknames, paths=paths, targets=targets, strengths=strengths),
        "Failed to set LoRA adapter",
    )
    shown_target = ", ".join(target) if isinstance(target, list) else target
    shown_strength = ", ".join(f"{value:.2f}" for value in (strength if isinstance(strength, list) else [strength]))
    return {
        "status": "ok",
        "message": f"Successfully set LoRA adapter(s): {', '.join(nicknames)} "
        f"(target: {shown_target}, strength: {shown_strength})",
    }


@router.post("/merge_lora_weights")
async def merge_lora_weights(
    worker: TheWorker,
    target: Annotated[str, Body(embed=True)] = "all",
    strength: Annotated[float, Body(embed=True)] = 1.0,
) -> dict[str, str]:
    """Make the applied adapters part of the weights."""
    await _run(worker, lambda: worker.model.merge_adapters(strength), "Failed to merge LoRA weights")
    return {"status": "ok", "message": f"Successfully merged LoRA weights (target: {target}, strength: {strength})"}


@router.post("/unmerge_lora_weights")
async def unmerge_lora_weights(worker: TheWorker, target: Annotated[str, Body(embed=True)] = "all") -> dict[str, str]:
    """Take the adapters out of the weights."""
    await _run(worker, worker.model.unmerge_adapters, "Failed to unmerge LoRA weights")
    return {"status": "ok", "message": f"Successfully unmerged LoRA weights (target: {target})"}


@router.get("/list_loras")
async def list_loras(worker: TheWorker) -> dict[str, Any]:
    """List what is loaded and what is applied."""
    try:
        return await worker.control("list_loras", worker.model.adapters.status)
    except SchedulerDead as error:
        raise HTTPException(status_code=500, detail=str(error)) from error


async def _run(worker: Worker, action: Callable[[], None], failure: str) -> None:
    try:
        await worker.adapt(action)
    except LoraError as error:
        raise HTTPException(status_code=500, detail=f"{failure}: {error}") from error
    except SchedulerDead as error:
        raise HTTPException(status_code=500, detail=str(error)) from error


def _listed(value: Any, count: int) -> list[Any]:
    return value if isinstance(value, list) else [value] * count
