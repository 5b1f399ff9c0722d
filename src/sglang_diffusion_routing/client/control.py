"""The requests that change the fleet, or look at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_diffusion_routing.client.exchange import Send


def refit(
    model_path: str,
    weight_version: str | None,
    mode: str,
    target_modules: list[str] | None,
    timeout_s: float | None,
    selector: str | None,
) -> Send:
    """Load a checkpoint into the workers; `timeout_s` bounds the wait for their work."""
    body: dict[str, Any] = {"model_path": model_path}
    if target_modules is not None:
        body["target_modules"] = target_modules
    if weight_version is not None:
        body["weight_version"] = weight_version
    return Send("POST", "/update_weights_from_disk", json=body, params=_params(selector, timeout_s, mode=mode))


def set_lora(
    lora_nickname: str, lora_path: str | None, weight_version: str | None, mode: str, more: Mapping[str, Any]
) -> Send:
    """Load a LoRA into the workers."""
    body: dict[str, Any] = {"lora_nickname": lora_nickname, **more}
    if lora_path is not None:
        body["lora_path"] = lora_path
    if weight_version is not None:
        body["weight_version"] = weight_version
    return Send("POST", "/v1/set_lora", json=body, params={"mode": mode})


def sleep(selector: str | None, timeout_s: float | None) -> Send:
    """Have the workers release their memory, each as soon as its work has ended."""
    return Send("POST", "/release_memory_occupation", params=_params(selector, timeout_s))


def wake(selector: str | None) -> Send:
    """Have the workers take their memory back."""
    return Send("POST", "/resume_memory_occupation", params=_params(selector, None))


def checksums(selector: str | None) -> Send:
    """Ask the workers what they have loaded."""
    return Send("POST", "/get_weights_checksum", json={}, params=_params(selector, None))


def pause(timeout_s: float | None) -> Send:
    """Hold the queue."""
    return Send("POST", "/pause_generation", json={} if timeout_s is None else {"timeout_s": timeout_s})


def resume() -> Send:
    """Release the queue."""
    return Send("POST", "/continue_generation")


def abort(group: str | None, request_id: str | None) -> Send:
    """Drop what waits: of a group, of one name, or all.

    Raises:
        ValueError: both are given.
    """
    if group is not None and request_id is not None:
        raise ValueError("name a group or a request, not both")
    if group is not None:
        return Send("POST", "/abort_request", json={"group": group})
    return Send("POST", "/abort_request", json={"all": True} if request_id is None else {"rid": request_id})


def _params(selector: str | None, timeout_s: float | None, **more: str) -> dict[str, str] | None:
    params = dict(more)
    if selector is not None:
        params["selector"] = selector
    if timeout_s is not None:
        params["timeout_s"] = f"{timeout_s:g}"
    return params or None
