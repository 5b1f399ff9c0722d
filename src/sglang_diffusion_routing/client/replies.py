"""Decode what the routes give: rollouts in msgpack, native generations and images in JSON."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import msgpack

from sglang_diffusion_routing.client.errors import DecodeError
from sglang_diffusion_routing.client.exchange import Answer
from sglang_diffusion_routing.client.made import Generation, Image, Images, Origin, Rollout, Sample, Trajectory
from sglang_diffusion_routing.client.tensors import Tensor, from_npy_base64, from_packed

_SAMPLE_MEMBERS = frozenset(
    {
        "request_id",
        "prompt",
        "seed",
        "generated_output",
        "rollout_log_probs",
        "rollout_debug_tensors",
        "denoising_env",
        "dit_trajectory",
        "inference_time_s",
        "peak_memory_mb",
    }
)
_GENERATION_MEMBERS = frozenset(
    {"id", "prompt", "seed", "output_b64", "output_format", "trajectory", "inference_time_s", "peak_memory_mb"}
)
_IMAGES_MEMBERS = frozenset({"id", "data"})


def rollout(answer: Answer) -> Rollout:
    """Decode the reply of /rollout/generate; its tensors are views of one copy of the body.

    Raises:
        DecodeError: with the path of the member that is wrong.
    """
    try:
        entries = msgpack.unpackb(answer.body)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError("reply", f"no msgpack: {error}") from None
    if not isinstance(entries, list):
        raise DecodeError("reply", f"a list of samples is wanted, not {type(entries).__name__}")
    return Rollout(tuple(_sample(entry, f"[{index}]") for index, entry in enumerate(entries)), Origin.of(answer))


def _sample(entry: Any, path: str) -> Sample:
    members = _members(entry, path)
    trajectory = _decoded(members.get("dit_trajectory"), f"{path}.dit_trajectory")
    return Sample(
        request_id=_typed(members, "request_id", str, path),
        prompt=_typed(members, "prompt", str, path),
        seed=_typed(members, "seed", int, path),
        output=_tensor_or_none(members, "generated_output", path),
        log_probs=_tensor_or_none(members, "rollout_log_probs", path),
        trajectory=None if trajectory is None else _trajectory(trajectory, f"{path}.dit_trajectory"),
        denoising_env=_decoded(members.get("denoising_env"), f"{path}.denoising_env"),
        debug=_decoded(members.get("rollout_debug_tensors"), f"{path}.rollout_debug_tensors"),
        inference_time_s=members.get("inference_time_s"),
        peak_memory_mb=members.get("peak_memory_mb"),
        more=_rest(members, _SAMPLE_MEMBERS, path),
    )


def _trajectory(decoded: Any, path: str) -> Trajectory:
    members = _members(decoded, path)
    parts: dict[str, Tensor] = {}
    for name in ("latents", "timesteps", "sigmas"):
        part = members.get(name)
        if part is None:
            continue
        if not isinstance(part, Tensor):
            raise DecodeError(f"{path}.{name}", f"a tensor is wanted, not {type(part).__name__}")
        parts[name] = part
    return Trajectory(**parts)


def _tensor_or_none(members: Mapping[str, Any], name: str, path: str) -> Tensor | None:
    value, where = members.get(name), f"{path}.{name}"
    if value is None:
        return None
    return from_packed(_members(value, where), where)


def _decoded(value: Any, path: str) -> Any:
    """Give a value with all tensors in it decoded, however deep they are."""
    if isinstance(value, dict):
        if value.get("__tensor__"):
            return from_packed(value, path)
        return {name: _decoded(member, f"{path}.{name}") for name, member in value.items()}
    if isinstance(value, list):
        return [_decoded(member, f"{path}[{index}]") for index, member in enumerate(value)]
    return value


def generation(answer: Answer) -> Generation:
    """Decode the reply of /v1/diffusion/generate.

    Raises:
        DecodeError: with the path of the member that is wrong.
    """
    members = _json(answer)
    output = members.get("output_b64")
    native = members.get("trajectory")
    return Generation(
        id=_typed(members, "id", str, ""),
        prompt=_typed(members, "prompt", str, ""),
        seed=members.get("seed"),
        output=None if output is None else _base64(output, "output_b64"),
        output_format=members.get("output_format") or "",
        trajectory=None if native is None else _native_trajectory(_members(native, "trajectory")),
        inference_time_s=members.get("inference_time_s"),
        peak_memory_mb=members.get("peak_memory_mb"),
        origin=Origin.of(answer),
        more=_rest(members, _GENERATION_MEMBERS, ""),
    )


def _native_trajectory(members: Mapping[str, Any]) -> Trajectory:
    def read(name: str) -> Tensor | None:
        text, where = members.get(name), f"trajectory.{name}"
        if text is None:
            return None
        tensor = from_npy_base64(text, where, members.get(f"{name}_dtype"))
        announced = members.get(f"{name}_shape")
        if announced is not None and list(tensor.shape) != announced:
            raise DecodeError(where, f"{announced} was announced, {list(tensor.shape)} came")
        return tensor

    timesteps = members.get("timesteps")
    if timesteps is not None and not isinstance(timesteps, list):
        raise DecodeError("trajectory.timesteps", f"a list is wanted, not {type(timesteps).__name__}")
    return Trajectory(
        latents=read("latents"),
        log_probs=read("log_probs"),
        timesteps=None
        if timesteps is None
        else tuple(
            from_npy_base64(text, f"trajectory.timesteps[{index}]", members.get("timesteps_dtype"))
            for index, text in enumerate(timesteps)
        ),
    )


def images(answer: Answer) -> Images:
    """Decode the reply of /v1/images/generations and /v1/images/edits.

    Raises:
        DecodeError: with the path of the member that is wrong.
    """
    members = _json(answer)
    rows = members.get("data")
    if not isinstance(rows, list):
        raise DecodeError("data", f"a list is wanted, not {type(rows).__name__}")
    return Images(
        id=members.get("id") or "",
        images=tuple(_image(row, f"data[{index}]") for index, row in enumerate(rows)),
        origin=Origin.of(answer),
        more=_rest(members, _IMAGES_MEMBERS, ""),
    )


def _image(row: Any, path: str) -> Image:
    members = _members(row, path)
    encoded = members.get("b64_json")
    return Image(
        data=None if encoded is None else _base64(encoded, f"{path}.b64_json"),
        url=members.get("url"),
        revised_prompt=members.get("revised_prompt"),
    )


def json_object(answer: Answer) -> dict[str, Any]:
    """Give a reply's JSON object.

    Raises:
        DecodeError: it is none.
    """
    return dict(_json(answer))


def _json(answer: Answer) -> Mapping[str, Any]:
    try:
        value = json.loads(answer.body)
    except ValueError as error:
        raise DecodeError("reply", f"no JSON: {error}") from None
    return _members(value, "reply")


def _members(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DecodeError(path, f"an object is wanted, not {type(value).__name__}")
    return value


def _typed(members: Mapping[str, Any], name: str, kind: type, path: str) -> Any:
    value = members.get(name)
    if not isinstance(value, kind):
        raise DecodeError(f"{path}.{name}".lstrip("."), f"{kind.__name__} is wanted, not {type(value).__name__}")
    return value


def _rest(members: Mapping[str, Any], known: frozenset[str], path: str) -> dict[str, Any]:
    return {name: _decoded(value, f"{path}.{name}".lstrip(".")) for name, value in members.items() if name not in known}


def _base64(text: Any, path: str) -> bytes:
    if not isinstance(text, str):
        raise DecodeError(path, f"base64 is wanted, not {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise DecodeError(path, f"no base64: {error}") from None
