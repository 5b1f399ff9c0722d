"""The loaded model of a simulated worker: its weights, and every way to change them.

Only the engine's thread touches it, one piece of work at a time, so what a generation reads cannot change under it.
Messages are those of SGLang 0.5.23 (post_training/weights_updater.py, tensor_update_checker.py).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_diffusion_routing.sim.lora import Adapters
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.tensors import Array, NotSafetensors, from_safetensors
from sglang_diffusion_routing.sim.weights import (
    CheckpointIncomplete,
    CheckpointMissing,
    Tensors,
    check_shapes,
    load_modules,
    module_checksum,
    seeded_module,
    tensor_checksum,
)

MOST_NAMES_SHOWN = 5  # of tensors in a checker's message


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a change of weights ended."""

    success: bool
    message: str


class Model:
    """Weights by module, and LoRA adapters on the transformer.

    A text encoder's refit succeeds and changes nothing, as on a real worker, where every parameter's name is skipped.
    """

    def __init__(self, settings: SimSettings) -> None:
        path = settings.effective_model_path
        names = list(settings.profile.modules)
        self._base_path = path
        self._base_source = f"{path}#{settings.weights_seed}"
        self._modules: dict[str, dict[str, Array]] = (
            load_modules(path, names) if Path(path).is_dir() else self._base_modules(names)
        )
        self.adapters = Adapters()
        self._transformer: dict[str, Array] = {}
        self.transformer_checksum = ""
        self._settle()

    def _base_modules(self, names: list[str]) -> dict[str, dict[str, Array]]:
        return {name: seeded_module(self._base_source, name) for name in names}

    def _settle(self) -> None:
        self._transformer = self.adapters.on(self._modules["transformer"])
        self.transformer_checksum = module_checksum(self._transformer)

    @property
    def transformer(self) -> Tensors:
        return self._transformer

    @property
    def vae(self) -> Tensors:
        return self._modules["vae"]

    def _tensors(self, module: str) -> Tensors:
        return self._transformer if module == "transformer" else self._modules[module]

    def checksums(self, names: list[str] | None) -> dict[str, str]:
        """Give the checksum of each module asked for; `not_found` for one that the model has not."""
        wanted = list(self._modules) if names is None else names
        return {name: module_checksum(self._tensors(name)) if name in self._modules else "not_found" for name in wanted}

    def update_from_disk(self, model_path: str, target_modules: list[str] | None, *, misload: bool = False) -> Outcome:
        """Load a checkpoint: all modules or the named ones, all or nothing.

        Adapters are dropped when the transformer beneath them is replaced.

        Args:
            misload: report success with other weights than the checkpoint's: a fault for tests.
        """
        names = list(self._modules) if target_modules is None else target_modules
        refusal = self._refuse_unknown(names)
        if refusal is not None:
            return refusal
        try:
            loaded = self._load(model_path, names)
        except (CheckpointMissing, CheckpointIncomplete) as error:
            return Outcome(success=False, message=str(error))
        for name, tensors in loaded.items():
            fresh = seeded_module(f"misloaded:{model_path}", name) if misload else tensors
            kept = {kept: tensor for kept, tensor in self._modules[name].items() if not _is_loaded(name, kept)}
            self._modules[name] = {**fresh, **kept}
        if "transformer" in loaded:
            self.adapters.drop()
        self._settle()
        return Outcome(success=True, message=f"Updated {len(names)} modules ({', '.join(names)}).")

    def _load(self, model_path: str, names: list[str]) -> dict[str, dict[str, Array]]:
        if model_path == self._base_path and not Path(model_path).is_dir():
            return self._base_modules(names)
        return load_modules(model_path, names)

    def _refuse_unknown(self, names: list[str]) -> Outcome | None:
        unknown = [name for name in names if name not in self._modules]
        if not unknown:
            return None
        return Outcome(
            success=False,
            message=f"Module(s) requested for update not found in pipeline: {unknown}. "
            f"Available Module(s): {list(self._modules)}",
        )

    def update_from_tensor(self, payload: str, target_modules: list[str] | None) -> Outcome:
        """Load tensors from the base64 of a safetensors file, whose names are `TENSOR` or `MODULE.TENSOR`.

        A bare name is of the first target module. As on a real worker a failure half-way leaves what was loaded before.
        """
        targets = ["transformer"] if target_modules is None else target_modules
        refusal = self._refuse_unknown(targets)
        if refusal is not None:
            return refusal
        try:
            tensors = from_safetensors(base64.b64decode(payload, validate=True))
        except (binascii.Error, NotSafetensors):
            return Outcome(
                success=False, message=f"Failed to deserialize serialized_named_tensors: {_complaint(payload)}"
            )
        outcome = self._apply(tensors, targets)
        self._settle()
        return outcome

    def _apply(self, tensors: Mapping[str, Array], targets: list[str]) -> Outcome:
        for full_name, tensor in tensors.items():
            module, name = _split_name(full_name, targets)
            try:
                check_shapes(module, {name: tensor})
            except ValueError as error:
                return Outcome(
                    success=False,
                    message=f"Failed to update module '{module}' from tensor: {error}. The pipeline may be partially "
                    "updated. Please discard the whole weights and reload from a known-good checkpoint.",
                )
            if _is_loaded(module, name):
                self._modules[module] = {**self._modules[module], name: tensor}
        if "transformer" in targets:
            self.adapters.drop()
        return Outcome(success=True, message=f"Updated {len(targets)} modules from tensor ({', '.join(targets)}).")

    def verify(self, module: str, expected: Mapping[str, str]) -> Outcome:
        """Compare tensors of a module with their SHA-256 values."""
        if module not in self._modules:
            return Outcome(success=False, message=f"Module '{module}' is not initialized")
        tensors = self._tensors(module)
        missing = sorted(name for name in expected if name not in tensors)
        wrong = sorted(
            name for name in expected if name in tensors and tensor_checksum(tensors[name]) != expected[name]
        )
        parts = [
            f"{text} {len(names)} tensor(s): {_listed(names)}"
            for text, names in (("missing", missing), ("checksum mismatch for", wrong))
            if names
        ]
        if parts:
            return Outcome(success=False, message=f"Module '{module}' update weight check failed: " + "; ".join(parts))
        return Outcome(success=True, message=f"Verified module '{module}' update for {len(expected)} tensor(s).")

    def spoil(self) -> None:
        """Leave the transformer half changed, as a refit that fails in the middle does: a fault for tests."""
        gain = "style.gain"
        transformer = self._modules["transformer"]
        self._modules["transformer"] = {**transformer, gain: -transformer[gain]}
        self._settle()

    def set_adapters(self, **request: Any) -> None:
        """Apply adapters as `Adapters.set` does; raises `LoraError` and changes nothing when it cannot."""
        self.adapters.set(**request)
        self._settle()

    def merge_adapters(self, strength: float) -> None:
        """Make the applied adapters part of the weights."""
        self.adapters.merge(strength)
        self._settle()

    def unmerge_adapters(self) -> None:
        """Take the adapters out of the weights."""
        self.adapters.unmerge()
        self._settle()


def _is_loaded(module: str, name: str) -> bool:
    """Say whether a refit reaches a tensor: SGLang fuses some of text encoders and passes over their names in files."""
    return not (module.startswith("text_encoder") and name.startswith("attention."))


def _split_name(full_name: str, targets: list[str]) -> tuple[str, str]:
    for target in targets:
        if full_name.startswith(f"{target}."):
            return target, full_name.removeprefix(f"{target}.")
    return targets[0], full_name


def _complaint(payload: str) -> str:
    """Say what Python's unpickler says of such bytes on a real worker."""
    try:
        raw = base64.b64decode(payload)
    except binascii.Error as error:
        return str(error)
    return f"invalid load key, {chr(raw[0])!r}." if raw else "Ran out of input"


def _listed(names: list[str]) -> str:
    rest = len(names) - MOST_NAMES_SHOWN
    return ", ".join(names[:MOST_NAMES_SHOWN]) + (f", ... (+{rest} more)" if rest > 0 else "")
