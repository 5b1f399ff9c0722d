"""Remember what each version's weights hash to, so that a refused refit can be proven to have changed nothing.

Hashing a large model keeps a worker busy for seconds, so one worker is asked for each version, the first that has it.
Of its modules the transformers count where there are any: text encoders report updates that did not change them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.weights import Loaded, Unversioned
from sglang_diffusion_routing.core.worker import Worker

VERSIONS_MAX = 64
"""A refusal is checked against what the worker had just before, so old versions matter little."""

Checksums = Mapping[str, str]
Key = tuple[str, Loaded]
"""A weight group and a version."""


class Baselines:
    """Checksums by weight group and version."""

    def __init__(self, api: WorkerApi, call_limit_s: float) -> None:
        self._api = api
        self._call_limit_s = call_limit_s
        self._known: dict[Key, Checksums] = {}
        self._asking: dict[Key, asyncio.Event] = {}

    def forget(self, group: str, version: str) -> None:
        """A version is about to be loaded again, perhaps with other weights."""
        self._known.pop((group, version), None)

    async def take_first(self, worker: Worker, group: str) -> None:
        """Ask an idle worker for what it has, if nobody is known to have that and nobody is being asked."""
        if worker.loaded is not Unversioned.SUSPECT:
            await self._take(worker, (group, worker.loaded))

    async def take_new(self, worker: Worker, group: str, version: str) -> None:
        """Ask a worker that has just loaded `version`, if it is the first."""
        await self._take(worker, (group, version))

    async def still_holds(self, worker: Worker, group: str, before: Loaded) -> bool | None:
        """Tell whether a worker still has what it had before; None when that cannot be told."""
        key = (group, before)
        if key in self._asking:
            await self._asking[key].wait()
        expected = self._known.get(key)
        if expected is None:
            return None
        found = await self._transformers(worker)
        return None if found is None else found == expected

    async def _take(self, worker: Worker, key: Key) -> None:
        if key in self._known or key in self._asking:
            return
        self._asking[key] = answered = asyncio.Event()
        try:
            found = await self._transformers(worker)
        finally:
            del self._asking[key]
            answered.set()
        if found is not None:
            self._known[key] = found
            if len(self._known) > VERSIONS_MAX:
                del self._known[next(iter(self._known))]

    async def _transformers(self, worker: Worker) -> Checksums | None:
        found = await self._api.checksums(worker.url, self._call_limit_s)
        if found is None:
            return None
        return {name: value for name, value in found.items() if "transformer" in name} or found
