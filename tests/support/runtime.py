"""A fleet with its effects: real core, real calls, no listener."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.control.resync import Resyncer
from sglang_diffusion_routing.control.sentinel import Sentinels
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.runtime.effects import Effects
from support.fleet import RecordingFleet


@dataclass
class Runtime:
    """What stands behind the fleet."""

    fleet: RecordingFleet
    api: WorkerApi
    prober: Prober
    sentinels: Sentinels
    baselines: Baselines
    refitter: Refitter
    resyncer: Resyncer
    effects: Effects

    def connect(self) -> None:
        """Carry out commands from now on; until then they are only written down."""
        self.fleet.run_command = self.effects.run


@asynccontextmanager
async def runtime(call_limit_s: float = 5.0) -> AsyncIterator[Runtime]:
    fleet = RecordingFleet()
    async with WorkerApi(Connector(), connect_timeout_s=2.0) as api:
        prober = Prober(fleet, api, interval_s=10.0, timeout_s=2.0, rng=random.Random(0))
        sentinels = Sentinels(fleet.apply, lambda worker_id, before_s: 0, connect_timeout_s=2.0)
        baselines = Baselines(fleet, api, call_limit_s=call_limit_s)
        refitter = Refitter(fleet, api, baselines, call_limit_s=call_limit_s, max_reply_bytes=4096)
        resyncer = Resyncer(fleet, api, baselines, call_limit_s=call_limit_s, max_reply_bytes=4096)
        effects = Effects(fleet, api, prober, sentinels, refitter, resyncer, call_limit_s=call_limit_s)
        try:
            yield Runtime(fleet, api, prober, sentinels, baselines, refitter, resyncer, effects)
        finally:
            for part in (effects, refitter, baselines, prober, sentinels):
                await part.aclose()
