"""Send one drained worker its new weights, and find out what a refusal has changed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.worker_api import Answer, Ended, WorkerApi
from sglang_diffusion_routing.core.weights import Loaded
from sglang_diffusion_routing.core.worker import Watch, Worker

_LOOKS, _LOOK_AGAIN_S = 200, 0.005
"""A second in all; the end of a silent connection is judged after some hundredths of one (control/sentinel.py)."""


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one worker's update.

    unchanged: of a refused one, whether the worker's weights are as before; None when nobody could tell.
    """

    answer: Answer
    unchanged: bool | None = None


class Updates:
    """Calls that change a worker's weights.

    Args:
        call_limit_s: how long a worker may take to load its weights.
    """

    def __init__(self, api: WorkerApi, baselines: Baselines, *, call_limit_s: float, max_reply_bytes: int) -> None:
        self.call_limit_s = call_limit_s
        self._api = api
        self._baselines = baselines
        self._max_reply_bytes = max_reply_bytes

    async def prepare(self, worker: Worker) -> None:
        """Find out what a worker has, so that a refusal can be told from a change."""
        await self._baselines.take_first(worker, worker.weight_group or "")

    async def make(self, worker: Worker, before: Loaded, outgoing: Outgoing) -> Update:
        """Give a worker that had `before` weights that come in one request."""
        answer = await self.send(worker, outgoing)
        return await self.refused(worker, before, answer) if answer.ended is Ended.REFUSED else Update(answer)

    async def send(self, worker: Worker, outgoing: Outgoing) -> Answer:
        """Send a worker a request as the client wrote it."""
        return await self._api.send(worker.url, outgoing.call(self.call_limit_s, self._max_reply_bytes))

    async def refused(self, worker: Worker, before: Loaded, answer: Answer) -> Update:
        """Find out whether a worker that refused still has what it had."""
        return Update(answer, await self._baselines.still_holds(worker, worker.weight_group or "", before))

    def loaded(self, worker: Worker, version: str) -> None:
        """Have the new weights' checksums taken while the worker serves; comes before its success is reported."""
        self._baselines.take_new(worker, worker.weight_group or "", version)


async def until_judged(worker: Worker) -> None:
    """Wait while it is being found out whether a worker's process has ended: what it has said may be void."""
    for _ in range(_LOOKS):
        if worker.watch is not Watch.ENDED:
            return
        await asyncio.sleep(_LOOK_AGAIN_S)
