"""The weights of a simulated model: named tensors by module, their checksums, and checkpoints on disk.

A checkpoint is a folder with `model_index.json` and, for each module, `MODULE/model.safetensors`, as diffusers lays out
a pipeline. A model path that begins with `sim/` needs no folder: its weights follow from its name.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sglang_diffusion_routing.sim.profiles import PROFILES
from sglang_diffusion_routing.sim.tensors import Array, NotSafetensors, from_safetensors, to_safetensors, torch_dtype

Tensors = Mapping[str, Array]

CHANNELS = 16  # of a latent, as in SD3, Flux and Wan
WAVES = 5  # cosine waves along each side of a latent; see prompts.py

_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "transformer": {"style.weight": (CHANNELS, WAVES, WAVES), "style.gain": (CHANNELS,)},
    "vae": {"decoder.weight": (3, CHANNELS), "decoder.bias": (3,)},
}
_OTHER_SHAPES: dict[str, tuple[int, ...]] = {"embedding.weight": (32, 16), "attention.weight": (16, 16)}


class CheckpointMissing(ValueError):
    """There is no model at the path; the message is the one of a real worker."""


class CheckpointIncomplete(ValueError):
    """The folder lacks a usable weight file for a module; the message is the one of a real worker."""


def shapes_of(module: str) -> Mapping[str, tuple[int, ...]]:
    """Name the tensors of a module and their shapes."""
    return _SHAPES.get(module, _OTHER_SHAPES)


def seeded_module(source: str, module: str) -> dict[str, Array]:
    """Draw a module's tensors, float32 and standard normal, from the name of their source."""
    return {
        name: np.random.default_rng(seed_of(source, module, name)).standard_normal(shape, dtype=np.float32)
        for name, shape in shapes_of(module).items()
    }


def seed_of(*words: str) -> int:
    """Make a seed of 128 bits from words; the same words give the same seed everywhere."""
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:16], "little")


def module_checksum(tensors: Tensors) -> str:
    """Give a module's checksum as SGLang computes it (loader/weight_utils.py, `compute_weights_checksum`)."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        hasher.update(name.encode())
        hasher.update(np.ascontiguousarray(tensors[name]).tobytes())
    return hasher.hexdigest()


def tensor_checksum(tensor: Array) -> str:
    """Give one tensor's checksum as SGLang's checker does (post_training/tensor_update_checker.py)."""
    hasher = hashlib.sha256()
    hasher.update(torch_dtype(tensor).encode())
    hasher.update(repr(tuple(tensor.shape)).encode())
    hasher.update(np.ascontiguousarray(tensor).tobytes())
    return hasher.hexdigest()


def write_checkpoint(path: Path, seed: int, *, model: str = "sd3") -> None:
    """Write a whole checkpoint whose weights follow from `seed`; the folder is made when it is not there.

    Args:
        model: a key of `PROFILES`; it decides the modules.
    """
    path.mkdir(parents=True, exist_ok=True)
    profile = PROFILES[model]
    for module in profile.modules:
        write_module(path, module, seeded_module(f"checkpoint:{seed}", module))
    (path / "model_index.json").write_text(json.dumps({"_class_name": profile.pipeline}), encoding="utf-8")


def write_module(path: Path, module: str, tensors: Tensors) -> None:
    """Write the weights of one module of a checkpoint."""
    (path / module).mkdir(parents=True, exist_ok=True)
    (path / module / "model.safetensors").write_bytes(to_safetensors(tensors))


def load_modules(model_path: str, modules: list[str]) -> dict[str, dict[str, Array]]:
    """Read modules of a checkpoint.

    Raises:
        CheckpointMissing: no such folder, and not a built-in `sim/` model.
        CheckpointIncomplete: a module's file is missing or does not fit the module.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        if model_path.startswith("sim/"):
            return {module: seeded_module(model_path, module) for module in modules}
        raise CheckpointMissing(
            f"Failed to download model: Could not find model at {model_path} and failed to download from "
            f"Hugging Face Hub: {_hub_refusal(model_path)}"
        )
    missing = [module for module in modules if not (folder / module / "model.safetensors").is_file()]
    if missing:
        raise CheckpointIncomplete(
            f"Cannot update weights: missing weight files for modules: {missing}. No partial updates allowed."
        )
    return {module: _read_module(folder, module) for module in modules}


def _read_module(folder: Path, module: str) -> dict[str, Array]:
    try:
        tensors = from_safetensors((folder / module / "model.safetensors").read_bytes())
        check_shapes(module, tensors)
    except (NotSafetensors, KeyError, ValueError) as error:
        raise CheckpointIncomplete(
            f"Failed to update module '{module}': {error}. All modules rolled back to original weights."
        ) from error
    return tensors


def check_shapes(module: str, tensors: Tensors) -> None:
    """Refuse tensors that are not of this module.

    Raises:
        ValueError: an unknown name, or another shape or type than the module's.
    """
    for name, tensor in tensors.items():
        shape = shapes_of(module).get(name)
        if shape is None:
            raise ValueError(f"unknown tensor '{name}'")
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise ValueError(f"tensor '{name}' must be torch.float32 {shape}, got {torch_dtype(tensor)} {tensor.shape}")


def _hub_refusal(name: str) -> str:
    """Say why the hub takes no path for a name (huggingface_hub/utils/_validators.py)."""
    if name.count("/") > 1:
        return (
            f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{name}'. "
            "Use `repo_type` argument if needed."
        )
    return (
        "Repo id must use alphanumeric chars, '-', '_' or '.'. "
        f"The name cannot start or end with '-' or '.' and the maximum length is 96: '{name}'."
    )
