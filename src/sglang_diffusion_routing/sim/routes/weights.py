"""Refits, checksums, sleep and waking: all of them wait in the engine's one queue."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.model import Outcome
from sglang_diffusion_routing.sim.routes.common import TheWorker, refused
from sglang_diffusion_routing.sim.worker import RefitWhileAsleep, Worker

router = APIRouter()


@router.post("/update_weights_from_disk")
async def update_weights_from_disk(request: Request, worker: TheWorker) -> JSONResponse:
    """Load a checkpoint; a body that is not JSON is an unhandled error."""
    body = await request.json()
    model_path = body.get("model_path")
    if not model_path:
        return refused("model_path is required")
    target_modules = body.get("target_modules")
    try:
        outcome = await worker.refit(
            lambda: worker.model.update_from_disk(model_path, target_modules, misload=worker.faults.misload_refits),
            from_disk=True,
        )
    except (RefitWhileAsleep, SchedulerDead) as error:
        return refused(str(error), 500)
    return _answer(outcome)


@router.post("/update_weights_from_tensor")
async def update_weights_from_tensor(request: Request, worker: TheWorker) -> JSONResponse:
    """Load tensors from the body; the payloads are the simulation's own: see `Model.update_from_tensor`."""
    body = await request.json()
    payloads = body.get("serialized_named_tensors")
    if not payloads:
        return refused("serialized_named_tensors is required")

    def action() -> Outcome:
        chosen = _own_payload(worker, payloads, body.get("payload_gpu_uuids"))
        if isinstance(chosen, Outcome):
            return chosen
        if body.get("weight_update_mode") is not None:
            return Outcome(success=False, message=f"weight_update_mode {body['weight_update_mode']!r} is not simulated")
        return worker.model.update_from_tensor(chosen, body.get("target_modules"))

    try:
        outcome = await worker.refit(action, from_disk=False)
    except SchedulerDead as error:
        return refused(str(error), 500)
    return _answer(outcome)


def _own_payload(worker: Worker, payloads: Any, uuids: list[str] | None) -> str | Outcome:
    """Choose the payload for this worker's GPU as SGLang does (gpu_worker_post_training_mixin.py)."""
    if not isinstance(payloads, list):
        return Outcome(success=False, message="serialized_named_tensors must be a list")
    if uuids is None:
        if len(payloads) == 1:
            return str(payloads[0])
        return Outcome(
            success=False,
            message=f"serialized_named_tensors size must be 1 or world_size (1), got {len(payloads)}",
        )
    if len(uuids) != len(payloads):
        return Outcome(
            success=False,
            message=f"payload_gpu_uuids needs one entry per payload, got {len(uuids)} for {len(payloads)} payloads",
        )
    own = _normal(worker.gpu_uuid)
    for uuid, payload in zip(uuids, payloads, strict=True):
        if _normal(uuid) == own:
            return str(payload)
    return Outcome(success=False, message=f"no payload was exported from this worker's GPU {own}, got {uuids}")


def _normal(uuid: str) -> str:
    return uuid.removeprefix("MIG-").removeprefix("GPU-").lower()


@router.post("/update_weights_from_tensor_checker")
async def update_weights_from_tensor_checker(request: Request, worker: TheWorker) -> JSONResponse:
    """Compare tensors with their SHA-256 values."""
    body = await request.json()
    module = body.get("target_module")
    if not module:
        return refused("target_module is required")
    expected = body.get("expected_named_tensors_sha256")
    if not isinstance(expected, dict) or not expected:
        return refused("expected_named_tensors_sha256 is required")
    try:
        outcome = await worker.control("checker", lambda: worker.model.verify(module, expected))
    except SchedulerDead as error:
        return refused(str(error), 500)
    return _answer(outcome)


@router.post("/get_weights_checksum")
async def get_weights_checksum(request: Request, worker: TheWorker) -> JSONResponse:
    """Give the checksums of modules; an empty body is an unhandled error, and sleep changes nothing."""
    body = await request.json()
    names = body.get("module_names")
    try:
        return JSONResponse(await worker.control("checksum", lambda: worker.model.checksums(names)))
    except SchedulerDead as error:
        return JSONResponse({"error": str(error)}, status_code=500)


@router.post("/release_memory_occupation")
async def release_memory_occupation(worker: TheWorker) -> JSONResponse:
    """Fall asleep behind all work before it."""
    try:
        return _occupation(await worker.release())
    except SchedulerDead as error:
        return refused(str(error), 500)


@router.post("/resume_memory_occupation")
async def resume_memory_occupation(worker: TheWorker) -> JSONResponse:
    """Wake up."""
    try:
        return _occupation(await worker.resume())
    except SchedulerDead as error:
        return refused(str(error), 500)


def _occupation(reply: dict[str, Any]) -> JSONResponse:
    return JSONResponse(reply, status_code=200 if reply["success"] else 400)


def _answer(outcome: Outcome) -> JSONResponse:
    return JSONResponse(
        {"success": outcome.success, "message": outcome.message}, status_code=200 if outcome.success else 400
    )
