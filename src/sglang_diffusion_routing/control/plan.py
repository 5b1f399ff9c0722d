"""What a refit is to do: as a client asks for it, and as it is once its turn has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.control.rows import skipped
from sglang_diffusion_routing.core.events import RefitOpened, RefitRequested
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind, step_of
from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.schemas import SkippedRow

_LORA = frozenset({StepKind.SET_LORA, StepKind.MERGE_LORA, StepKind.UNMERGE_LORA})
_WRAPPED = (
    "a LoRA was set on workers of this group before: SGLang-Diffusion 0.5.23 reports success and leaves the layers "
    "that a LoRA wraps as they were; compare the checksums with those of a fresh process, or restart the workers"
)

Choose = Callable[[], Sequence[Worker]]
"""Gives the workers that a request is for, as they are when it is called."""


@dataclass(frozen=True, slots=True)
class Refit:
    """What a client asks for.

    outgoing: what every worker is to get; its body is the refit's to close.
    content: the body once more where it is small and can be sent again.
    version: name of the new weights; None to have the router count. drain_limit_s: how long work may take to end.
    """

    kind: StepKind
    outgoing: Outgoing
    version: str | None
    drain_limit_s: float
    pace: Pace = field(default_factory=Pace)
    content: bytes = b""

    @property
    def route(self) -> str:
        return self.outgoing.target.partition("?")[0]

    def plan(self, refit_id: str, version: str, groups: frozenset[str]) -> Plan:
        """Settle what the request has left open."""
        out = self.outgoing
        step = step_of(self.kind, version, out.target, tuple(out.headers.items()), self.content)
        return Plan(refit_id, version, groups, step, self.pace, self.drain_limit_s)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    refit_id: str
    version: str
    groups: frozenset[str]
    step: Step
    pace: Pace
    drain_limit_s: float

    def opened(self) -> RefitOpened:
        """Say that it has begun."""
        pace = self.pace
        return RefitOpened(
            self.groups, self.refit_id, self.version, pace.mode, step=self.step, admit_new=pace.admit_new
        )

    def asked_of(self, worker: Worker) -> RefitRequested:
        """Say what one worker is asked for."""
        return RefitRequested(
            worker.worker_id,
            self.refit_id,
            self.version,
            drain_limit_s=self.drain_limit_s,
            immediate=self.pace.mode is Mode.IMMEDIATE,
        )


def caution(ledger: Ledger, plan: Plan) -> str | None:
    """Say what the workers' success may not mean (docs/worker-states.md); None when there is nothing to say."""
    kinds = {step.kind for group in plan.groups for step in ledger.group(group).recipe.steps}
    return _WRAPPED if plan.step.kind not in _LORA and kinds & _LORA else None


def groups_of(workers: Sequence[Worker]) -> frozenset[str]:
    """Give the weight groups of those that have said what they serve."""
    return frozenset(worker.weight_group for worker in workers if worker.weight_group is not None)


def sort_out(workers: Sequence[Worker], groups: frozenset[str]) -> tuple[list[Worker], list[SkippedRow]]:
    """Split workers into those that can be refit now and those that are left out, with the reason.

    Args:
        groups: those whose turn it is; a worker may have changed its own since.
    """
    eligible: list[Worker] = []
    skips: list[SkippedRow] = []
    for worker in workers:
        if not _can_be_refit(worker):
            skips.append(skipped(worker, worker.status.value))
        elif worker.weight_group is None:
            skips.append(skipped(worker, "it has not said yet what it serves, so its weight group is not known"))
        elif worker.weight_group not in groups:
            skips.append(skipped(worker, "its weight group has changed"))
        else:
            eligible.append(worker)
    return eligible, skips


def _can_be_refit(worker: Worker) -> bool:
    """Tell whether a worker is awake and free: what the router does to one worker by itself gives way."""
    mended = worker.order is not None and worker.order.resync
    return (worker.state is WorkerState.ACTIVE or mended) and worker.health is not Health.QUARANTINED
