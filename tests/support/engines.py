"""Workers' weights without a network: what each hashes to, and how refits change that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count

from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, Failure, WorkerApi
from sglang_diffusion_routing.core.events import (
    CapabilityLearned,
    CommandSucceeded,
    ProbeSucceeded,
    RefitClosed,
    RefitOpened,
    RefitRequested,
    WorkerRestarted,
)
from sglang_diffusion_routing.core.refit import Mode, StepKind, step_of
from sglang_diffusion_routing.core.worker import Capability, Worker, WorkerUrl
from support.fleet import RecordingFleet

GROUP = "m"
DONE = Answer(Ended.SUCCEEDED, 200, {"success": True})
REFUSED = Answer(Ended.REFUSED, 400, {"success": False, "message": "no such path"})
LOST = Answer(Ended.LOST, 502, {"error": "no answer"}, failure=Failure.TIMED_OUT)

_ROUTES = {
    StepKind.DISK: "/update_weights_from_disk",
    StepKind.SET_LORA: "/v1/set_lora",
    StepKind.TENSOR: "/update_weights_from_tensor",
}
_refits = count(1)


@dataclass
class Engines(WorkerApi):
    """Answers from memory.

    usual: what a worker says its weights hash to; sums: what those that differ say, by URL. None is no answer.
    loras: the adapters that a worker has applied, by URL.
    answers: to refits, by body, where they do not simply succeed. gives: the transformer's checksum after one,
        None if the worker says nothing from then on.
    asked: URLs that were asked for checksums. sent: URL, target and body of every refit.
    hold: keeps every question for checksums waiting until it is set.
    """

    usual: dict[str, str] | None = field(default_factory=lambda: {"transformer": "t1", "vae": "v1"})
    sums: dict[str, dict[str, str] | None] = field(default_factory=dict)
    loras: dict[str, str | None] = field(default_factory=dict)
    answers: dict[bytes, Answer] = field(default_factory=dict)
    gives: dict[bytes, str | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: list[tuple[str, str, bytes]] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def checksums(self, url: WorkerUrl, timeout_s: float) -> dict[str, str] | None:
        self.asked.append(str(url))
        if self.hold is not None:
            await self.hold.wait()
        return self.sums.get(str(url), self.usual)

    async def adapters(self, url: WorkerUrl, timeout_s: float) -> str | None:
        return self.loras.get(str(url), "")

    async def send(self, url: WorkerUrl, call: Call) -> Answer:
        assert isinstance(call.content, bytes)
        self.sent.append((str(url), call.target, call.content))
        if call.content in self.gives:
            given = self.gives[call.content]
            self.sums[str(url)] = None if given is None else {"transformer": given}
        return self.answers.get(call.content, DONE)


def refit(fleet: RecordingFleet, version: str, *workers: Worker, kind: StepKind = StepKind.DISK) -> None:
    """Have one refit load workers with `version`; its body is the version's name."""
    refit_id = f"refit-{next(_refits)}"
    body = b'{"lora_path":"%b"}' if kind is StepKind.SET_LORA else b'{"model_path":"%b"}'
    step = step_of(kind, version, _ROUTES[kind], body=body % version.encode())
    fleet.apply(RefitOpened(frozenset({GROUP}), refit_id, version, Mode.DRAIN, step))
    for worker in workers:
        fleet.apply(RefitRequested(worker.worker_id, refit_id, version))
        assert worker.command_id is not None
        fleet.apply(CommandSucceeded(worker.worker_id, worker.command_id))
    fleet.apply(RefitClosed(refit_id))


def restart(fleet: RecordingFleet, worker: Worker) -> None:
    """Have another process answer at a worker's address."""
    fleet.apply(WorkerRestarted(worker.worker_id, worker.incarnation))
    fleet.apply(CapabilityLearned(worker.worker_id, worker.incarnation, Capability(("T2I",), (GROUP,), learned=True)))
    fleet.apply(ProbeSucceeded(worker.worker_id, worker.incarnation))


async def settle() -> None:
    """Let everything happen that can happen without anybody's doing."""
    for _ in range(20):
        await asyncio.sleep(0)
