"""What a refit did to weights, and which of these steps a worker that missed some must be sent again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

STEPS_MAX = 64
"""Steps kept for a replay. A trainer whose every refit builds on the last sends a whole checkpoint now and then."""

BYTES_MAX = 4 * 2**20
"""Bodies kept for a replay, together; those of real trainers name a path and have some hundred bytes."""


class Mode(Enum):
    """How the fleet goes over to new weights."""

    DRAIN = "drain"
    """Fenced, and updated one by one as their work ends."""
    ROLLING = "rolling"
    """A few at a time, so that capacity stays up; the old version serves on until the commit."""
    IMMEDIATE = "immediate"
    """Fenced, not drained: the call queues behind the worker's own work."""


class StepKind(Enum):
    """What a step does to weights."""

    DISK = "disk"
    TENSOR = "tensor"
    SET_LORA = "set_lora"
    MERGE_LORA = "merge_lora"
    UNMERGE_LORA = "unmerge_lora"
    REPORTED = "reported"
    """The trainer gave the weights to the engines itself and told the router."""
    FORGOTTEN = "forgotten"
    """Steps that were too many to keep."""


_LORA = frozenset({StepKind.SET_LORA, StepKind.MERGE_LORA, StepKind.UNMERGE_LORA})
_SWITCHES = frozenset({StepKind.MERGE_LORA, StepKind.UNMERGE_LORA})
_BASES = frozenset({StepKind.DISK, StepKind.TENSOR, StepKind.REPORTED})
_UNREPEATABLE = frozenset({StepKind.TENSOR, StepKind.REPORTED, StepKind.FORGOTTEN})


@dataclass(frozen=True, slots=True)
class Step:
    """One request that changed weights, as every worker got it.

    version: what the weights were called after it.
    target: path and query. headers: the client's that were passed on. body: empty where it cannot be sent again.
    modules: parts of the model that it changes; empty for all.
    self_contained: for a LoRA, whether it names the files of all its adapters, so that no earlier step is needed.
    """

    kind: StepKind
    version: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    modules: frozenset[str] = frozenset()
    self_contained: bool = True

    @property
    def repeatable(self) -> bool:
        """Tensors are handles to memory that is gone, and what was only reported was never seen."""
        return self.kind not in _UNREPEATABLE

    @property
    def whole(self) -> bool:
        """Whether nothing of what was there before is left: tensors are taken to be all that changes."""
        return self.kind in _BASES and not self.modules

    def covers(self, other: Step) -> bool:
        """Tell whether this step sets every part that the other changed."""
        return not self.modules or (bool(other.modules) and other.modules <= self.modules)


def step_of(
    kind: StepKind, version: str, target: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> Step:
    """Describe a request by its kind and its JSON body (SGLang-Diffusion: `target_modules`, LoRA's `target`)."""
    step = Step(kind, version, target, tuple(headers), b"" if kind in _UNREPEATABLE else body)
    if kind in _UNREPEATABLE:
        return step
    try:
        fields = json.loads(body) if body else {}
    except ValueError:
        return step
    if not isinstance(fields, dict):
        return step
    if kind is StepKind.DISK:
        return replace(step, modules=_names(fields.get("target_modules")))
    modules = _names(fields.get("target"))
    return replace(
        step,
        modules=frozenset() if "all" in modules else modules,
        self_contained=kind is StepKind.SET_LORA and _all_named(fields),
    )


def _names(value: object) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset({value})
    if isinstance(value, list):
        return frozenset(name for name in value if isinstance(name, str))
    return frozenset()


def _all_named(fields: dict[str, object]) -> bool:
    """Tell whether every adapter of a `set_lora` comes with its path; without, the engine takes one it has loaded."""
    paths = fields.get("lora_path")
    if isinstance(paths, list):
        return bool(paths) and all(isinstance(path, str) and path for path in paths)
    return isinstance(paths, str) and bool(paths)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The steps that lead from what a process starts with to a version: a base from disk, then LoRA steps."""

    steps: tuple[Step, ...] = ()

    def after(self, step: Step) -> Recipe:
        """Give the recipe with one more step, without those that it makes superfluous.

        The first LoRA of a process wraps the layers of its transformers, and SGLang-Diffusion 0.5.23 does not load
        wrapped layers from disk (`weights_updater.py`, `_iter_module_weight_updates` finds no parameter of the name).
        So what came before the first LoRA and that LoRA itself stay while there is a checkpoint behind them: whoever is
        sent the steps again then comes out like those that have had them one by one.
        """
        if not step.repeatable:
            # Nothing before it helps a worker that did not get it.
            return Recipe((step,))
        first, last = self._loras()
        return Recipe(
            (*(earlier for place, earlier in enumerate(self.steps) if self._stays(place, step, first, last)), step)
        )

    def _loras(self) -> tuple[int, int]:
        """Give the places of the first `set_lora`, behind all steps if there is none, and of the last one."""
        places = [place for place, step in enumerate(self.steps) if step.kind is StepKind.SET_LORA]
        return (places[0], places[-1]) if places else (len(self.steps), -1)

    def _stays(self, place: int, step: Step, first: int, last: int) -> bool:
        """Tell whether an earlier step is needed still when `step` comes after it."""
        earlier = self.steps[place]
        if not step.covers(earlier):
            return True
        match step.kind:
            case StepKind.DISK if not earlier.repeatable:
                return False
            case StepKind.DISK:
                return first < len(self.steps) and (place <= first or earlier.kind is not StepKind.DISK)
            case StepKind.SET_LORA if step.self_contained:
                wraps = place == first and any(later.kind is StepKind.DISK for later in self.steps[place:])
                return earlier.kind not in _LORA or wraps
            case StepKind.MERGE_LORA | StepKind.UNMERGE_LORA:
                return earlier.kind not in _SWITCHES or place < last
            case _:
                return True

    def missing_from(self, loaded: object) -> tuple[Step, ...]:
        """Give the steps after the version that a worker has loaded, all of them when that is none of the recipe's."""
        for place in range(len(self.steps) - 1, -1, -1):
            if self.steps[place].version == loaded:
                return self.steps[place + 1 :]
        return self.steps

    def allows(self, step: Step, loaded: object) -> bool:
        """Tell whether `step` alone brings a worker that has `loaded` to where it brings those that miss nothing.

        A whole checkpoint does, and tensors are taken to be whole; what builds on what is there does only if it sets
        every part that the worker misses.
        """
        missing = self.missing_from(loaded)
        match step.kind:
            case StepKind.DISK:
                return all(step.covers(missed) for missed in missing)
            case StepKind.SET_LORA if step.self_contained:
                return all(missed.kind in _LORA and step.covers(missed) for missed in missing)
            case StepKind.TENSOR | StepKind.REPORTED:
                return True
            case _:
                return False

    def may_differ(self, step: Step, loaded: object) -> bool:
        """Tell whether a worker that has `loaded` may come out of `step` unlike those that miss nothing.

        Layers that a LoRA wraps are not loaded by those that have had it, and are by those that have not (`after`).
        """
        return step.kind not in _LORA and any(missed.kind in _LORA for missed in self.missing_from(loaded))

    def obstacle_for(self, loaded: object) -> str | None:
        """Say why a worker that has `loaded` cannot be brought up by sending steps again; None when it can."""
        steps = self.missing_from(loaded)
        if not steps:
            return "there is nothing to send again"
        for step in steps:
            if step.kind is StepKind.TENSOR:
                return f"weights {step.version!r} came as tensors, which cannot be sent again"
            if step.kind is StepKind.REPORTED:
                return f"weights {step.version!r} did not come through the router"
            if step.kind is StepKind.FORGOTTEN:
                return f"more than {STEPS_MAX} steps, or {BYTES_MAX} bytes, have come since the last whole checkpoint"
        return None

    @property
    def obstacle(self) -> str | None:
        """Say why the recipe cannot be replayed from its start; None when it can."""
        return self.obstacle_for(None)

    def bounded(self) -> Recipe:
        """Give the recipe as it is kept: of one that is too long only that is remembered."""
        if len(self.steps) <= STEPS_MAX and sum(len(step.body) for step in self.steps) <= BYTES_MAX:
            return self
        return Recipe((Step(StepKind.FORGOTTEN, self.steps[-1].version, ""),))
