"""Ask workers what their weights hash to, and have the ledger keep it, so that others can be held against it.

Hashing a large model keeps a worker busy for seconds, so one worker is asked for each version, the first that has it,
and nobody waits for its answer but those that need it. Of its modules the transformers count where there are any: text
encoders report updates that did not change them. Adapters that are applied beside the weights and not merged into them
(SGLang-Diffusion 0.5.23, `merge_mode`: "dynamic", or "auto" where merging would round them away) change no checksum of
a module: what `GET /v1/list_loras` says of them counts as one more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.events import ChecksumsRead
from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.weights import Checksums, Loaded, Unversioned
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

CHECK_LIMIT_S = 120.0
"""A worker is kept from work for at most this long to learn what its weights are."""

ASKED_MAX = 3
"""Workers that are asked for one version, one after the other, until one answers."""

ADAPTERS = "lora"
"""Stands among the modules for the adapters that are applied."""

Key = tuple[str, Loaded]
"""A weight group and what a worker of it has loaded."""


_TOO_LATE = -1


class _Question:
    """A worker that is being asked, and its count of updates up to which its answer is good."""

    task: asyncio.Task[None]
    worker: Worker | None = None
    updates: int = _TOO_LATE


class Baselines:
    """What each version's weights hash to.

    Args:
        call_limit_s: how long a worker at work may take over an answer that nobody waits for.
    """

    def __init__(self, fleet: Fleet, api: WorkerApi, *, call_limit_s: float) -> None:
        self._fleet = fleet
        self._api = api
        self._call_limit_s = call_limit_s
        self._check_limit_s = min(call_limit_s, CHECK_LIMIT_S)
        self._asking: dict[Key, _Question] = {}
        self._tasks = Tasks()

    async def aclose(self) -> None:
        """Ask no more."""
        await self._tasks.cancel_all()

    async def take_first(self, worker: Worker, group: str) -> None:
        """Ask a worker that is about to be updated for what it has, unless that is known or somebody is being asked."""
        key = (group, worker.loaded)
        if self._known(key) or not (isinstance(worker.loaded, str) or worker.loaded is Unversioned.BASE):
            return
        question = self._asking.get(key)
        if question is None:
            question = self._begin(key, lambda it: self._ask(key, worker, it, self._check_limit_s))
        elif question.worker is worker and worker.updates == question.updates + 1:
            # It was at work when it was asked, and is not sent anything before it has answered.
            question.updates = worker.updates
        else:
            return
        if not (await asyncio.wait({question.task}, timeout=self._check_limit_s))[0]:
            question.updates = _TOO_LATE

    def take_new(self, worker: Worker, group: str, version: Loaded) -> None:
        """Have a worker asked that has just loaded `version`, while it serves; call this before that is reported."""
        key = (group, version)
        if key not in self._asking:
            self._begin(key, lambda question: self._find_out(key, worker, question))

    async def still_holds(self, worker: Worker, group: str, before: Loaded) -> bool | None:
        """Tell whether a worker still has what it had before; None when that cannot be told."""
        expected = await self.expected(group, before)
        found = await self.read(worker) if expected is not None else None
        return found == expected if found else None

    async def expected(self, group: str, loaded: Loaded) -> Checksums | None:
        """Give the checksums of what `loaded` names, once an answer that is on its way has come; None if unknown."""
        key = (group, loaded)
        if not self._known(key) and key in self._asking:
            await asyncio.wait({self._asking[key].task}, timeout=self._check_limit_s)
        return self._fleet.pool.ledger.expected(group, loaded)

    async def learn(self, group: str, loaded: Loaded) -> Checksums | None:
        """Give the checksums of what `loaded` names, and ask those that have it if nobody knows."""
        key = (group, loaded)
        if not self._known(key) and key not in self._asking:
            self._begin(key, lambda question: self._find_out(key, None, question))
        return await self.expected(group, loaded)

    async def read(self, worker: Worker, limit_s: float | None = None) -> Checksums | None:
        """Ask a worker for what it has now.

        Returns:
            None when it did not say, nothing at all when it has no such route.
        """
        limit_s = self._check_limit_s if limit_s is None else limit_s
        found = await self._api.checksums(worker.url, limit_s)
        if not found:
            return found
        adapters = await self._api.adapters(worker.url, limit_s)
        if adapters is None:
            return None
        kept = {name: value for name, value in found.items() if "transformer" in name} or dict(found)
        return {**kept, ADAPTERS: hashlib.sha256(adapters.encode()).hexdigest()} if adapters else kept

    def _begin(self, key: Key, asking: Callable[[_Question], Coroutine[Any, Any, None]]) -> _Question:
        question = _Question()
        self._asking[key] = question
        question.task = self._tasks.spawn(asking(question), name="baseline")
        question.task.add_done_callback(lambda _: self._asking.pop(key, None))
        return question

    async def _find_out(self, key: Key, worker: Worker | None, question: _Question) -> None:
        """Ask those that have it, `worker` first, until it is known."""
        asked: set[WorkerId] = set()
        while not self._known(key) and len(asked) < ASKED_MAX:
            if worker is None or not _can_tell(worker, key):
                worker = self._another(key, asked)
            if worker is None:
                return
            asked.add(worker.worker_id)
            await self._ask(key, worker, question, self._call_limit_s)
            worker = None

    async def _ask(self, key: Key, worker: Worker, question: _Question, limit_s: float) -> None:
        group, loaded = key
        question.worker, question.updates = worker, worker.updates
        found = await self.read(worker, limit_s)
        _log.info("baseline_read", worker=worker.worker_id, group=group, weights=_name(loaded), known=bool(found))
        if found:
            # The pool drops it if the worker's weights may have changed while it was asked.
            self._fleet.apply(ChecksumsRead(group, loaded, found, worker.worker_id, question.updates))

    def _another(self, key: Key, asked: set[WorkerId]) -> Worker | None:
        workers = self._fleet.pool.workers.values()
        return next((one for one in workers if one.worker_id not in asked and _can_tell(one, key)), None)

    def _known(self, key: Key) -> bool:
        return self._fleet.pool.ledger.expected(*key) is not None


def _can_tell(worker: Worker, key: Key) -> bool:
    """Tell whether a worker has what is asked for, and goes on having it while it answers, as far as one knows."""
    return (
        (worker.weight_group or "", worker.loaded) == key
        and worker.health is Health.HEALTHY
        and worker.state in {WorkerState.ACTIVE, WorkerState.DRAINING, WorkerState.SLEEPING}
    )


def _name(loaded: Loaded) -> str:
    return loaded if isinstance(loaded, str) else loaded.value
