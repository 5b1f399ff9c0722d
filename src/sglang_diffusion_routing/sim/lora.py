"""LoRA adapters of a simulated transformer: which are loaded, which are applied, and what they add."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sglang_diffusion_routing.sim.tensors import Array
from sglang_diffusion_routing.sim.weights import Tensors, seed_of, shapes_of

VALID_TARGETS = ("all", "transformer", "transformer_2", "critic")
LOCAL = ("/", "./", "../")  # other paths name something on a hub, which the simulation makes up
DELTA_SIZE = 0.5  # of an adapter's change at strength 1, against weights of size 1


class LoraError(ValueError):
    """An adapter cannot be set; the message is SGLang's (pipelines_core/lora/pipeline.py)."""


@dataclass(slots=True)
class Adapters:
    """The adapters of one transformer.

    loaded: path of each adapter by nickname. applied: (nickname, strength) of those in use. merged: whether they are
    part of the weights now.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    applied: list[tuple[str, float]] = field(default_factory=list)
    merged: bool = False

    def set(self, nicknames: list[str], paths: list[str | None], targets: list[str], strengths: list[float]) -> None:
        """Load what has a path, and apply exactly these adapters, merged.

        Raises:
            LoraError: lengths differ, a target is unknown, an adapter was never loaded, or its file is not there.
        """
        for what, values in (("lora_path", paths), ("strength", strengths), ("target", targets)):
            if len(values) != len(nicknames):
                raise LoraError(
                    f"Length mismatch: lora_nickname has {len(nicknames)} items, but {what} has {len(values)} items"
                )
        invalid = [target for target in targets if target not in VALID_TARGETS]
        if invalid:
            raise LoraError(f"Invalid target(s): {invalid}. Valid targets: {list(VALID_TARGETS)}")
        for nickname, path in zip(nicknames, paths, strict=True):
            if path is None and nickname not in self.loaded:
                raise LoraError(f"Adapter {nickname} not found in the pipeline. Please provide lora_path to load it.")
            if path is not None and path.startswith(LOCAL) and not Path(path).exists():
                raise LoraError(f"Weight path does not exist: {Path(path).absolute()}")
        self.loaded.update({name: path for name, path in zip(nicknames, paths, strict=True) if path is not None})
        self.applied = list(zip(nicknames, strengths, strict=True))
        self.merged = True

    def merge(self, strength: float) -> None:
        """Make the applied adapters part of the weights, all with this strength."""
        self.applied = [(nickname, strength) for nickname, _ in self.applied]
        self.merged = bool(self.applied)

    def unmerge(self) -> None:
        """Take the adapters out of the weights; they stay loaded."""
        self.merged = False

    def drop(self) -> None:
        """Forget what is applied: the weights beneath it have been replaced."""
        self.applied = []
        self.merged = False

    def on(self, base: Tensors) -> dict[str, Array]:
        """Give the transformer's tensors as they work: the base and, when merged, what the adapters add."""
        tensors = {name: tensor.copy() for name, tensor in base.items()}
        if not self.merged:
            return tensors
        for nickname, strength in self.applied:
            for name, shape in shapes_of("transformer").items():
                rng = np.random.default_rng(seed_of("lora", self.loaded[nickname], name))
                tensors[name] += np.float32(strength * DELTA_SIZE) * rng.standard_normal(shape, dtype=np.float32)
        return tensors

    def status(self) -> dict[str, Any]:
        """Say what `/v1/list_loras` says."""
        active: dict[str, Any] = {}
        if self.applied and self.merged:
            names = [nickname for nickname, _ in self.applied]
            strengths = [strength for _, strength in self.applied]
            active["transformer"] = [
                {
                    "nickname": ",".join(names),
                    "nicknames": names,
                    "path": ",".join(self.loaded[name] for name in names),
                    "merged": True,
                    "mode": "merged",
                    "strength": strengths[0],
                    "strengths": strengths,
                }
            ]
        loaded = [{"nickname": nickname, "path": path} for nickname, path in self.loaded.items()]
        return {"loaded_adapters": loaded, "active": active}
