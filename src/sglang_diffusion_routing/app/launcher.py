"""Make the supervisor that the settings ask for, and let it have to do with the workers that the router knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from sglang_diffusion_routing.control.membership import Membership, Wanted
from sglang_diffusion_routing.control.prober import failure_of
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.events import HoldRequested, WakeRequested, WorkerDied
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.state import Health, Intent
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import BadSetting, Conflict, UnknownWorker
from sglang_diffusion_routing.launchers import config
from sglang_diffusion_routing.launchers.base import Backend
from sglang_diffusion_routing.launchers.external import ExternalBackend
from sglang_diffusion_routing.launchers.keeper import Patience
from sglang_diffusion_routing.launchers.local import LocalBackend, default_log_dir
from sglang_diffusion_routing.launchers.ray import RayBackend
from sglang_diffusion_routing.launchers.roster import Answer
from sglang_diffusion_routing.launchers.slots import RestartLimits
from sglang_diffusion_routing.launchers.supervisor import Supervisor
from sglang_diffusion_routing.runtime.loop import Fleet
from sglang_diffusion_routing.settings import Settings

LOOK_S = 0.1
"""How often a worker that drains to be removed is looked at."""


class FleetRoster:
    """The workers of slots among those of the fleet (`launchers.roster.Roster`).

    Args:
        timeout_s: how long a worker may take to say how it is.
    """

    def __init__(self, fleet: Fleet, membership: Membership, api: WorkerApi, *, timeout_s: float) -> None:
        self._fleet = fleet
        self._membership = membership
        self._api = api
        self._timeout_s = timeout_s
        self._enlisted: dict[int, str] = {}
        self._held: set[int] = set()

    @property
    def asleep(self) -> bool:
        return self._fleet.pool.asleep

    async def ask(self, url: str) -> Answer:
        answer = await self._api.health(WorkerUrl.parse(url), self._timeout_s)
        match failure_of(answer):
            case None:
                return Answer.SERVES
            case ProbeFailure.ENGINE_DIED:
                return Answer.ENGINE_DIED
            case _:
                return Answer.NOT_YET

    async def enlist(self, slot: int, url: str) -> None:
        before = self._enlisted.get(slot)
        old = None if before in {None, url} else self._find(before or "")
        wanted = Wanted(url) if old is None else Wanted(url, old.labels, old.max_concurrency)
        self._fleet.saver.leave_out(str(WorkerUrl.parse(url)))
        (worker,) = await self._membership.register(wanted)
        if before != url:
            self.dismiss(slot)
        self._enlisted[slot] = url
        self._let_go_on(worker)

    def _let_go_on(self, worker: Worker) -> None:
        """End the hold that a restart has begun; one of an operator stays."""
        if worker.incarnation in self._held:
            self._held.discard(worker.incarnation)
            if worker.intent is Intent.HOLD:
                self._fleet.apply(WakeRequested(worker.worker_id))

    def died(self, url: str, reason: str) -> None:
        worker = self._find(url)
        if worker is not None:
            self._fleet.apply(WorkerDied(worker.worker_id, worker.incarnation, f"its process {reason}"))

    def dismiss(self, slot: int) -> None:
        url = self._enlisted.pop(slot, None)
        # On other machines another slot's worker may have come to the address meanwhile.
        if url is not None and url not in self._enlisted.values():
            worker = self._find(url)
            if worker is not None:
                self._membership.remove(worker, force=True)

    def is_registered(self, url: str) -> bool:
        return self._find(url) is not None

    def is_suspected(self, url: str) -> bool:
        worker = self._find(url)
        return worker is not None and worker.health is Health.QUARANTINED

    async def drain(self, url: str, *, for_good: bool, force: bool) -> None:
        worker = self._find(url)
        if worker is None:
            return
        if for_good:
            self._membership.remove(worker, force=force)
            await self._until(lambda: self._fleet.pool.get(worker.worker_id) is not worker)
        elif not force:
            await self._hold(worker)

    async def _hold(self, worker: Worker) -> None:
        """Wait until a worker has no work; one that sleeps or is under an operator's hold gets none anyway."""
        if worker.intent is Intent.HOLD:
            await self._until(lambda: not self._fleet.scheduler.in_flight(worker.worker_id))
            return
        try:
            ending = self._fleet.ask(HoldRequested(worker.worker_id))
        except (Conflict, UnknownWorker):
            return
        self._held.add(worker.incarnation)
        await ending

    @staticmethod
    async def _until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - the core calls nobody back
            await asyncio.sleep(LOOK_S)

    def _find(self, url: str) -> Worker | None:
        return self._fleet.pool.get(WorkerId(str(WorkerUrl.parse(url))))


def supervisor(
    settings: Settings, environ: Mapping[str, str], fleet: Fleet, membership: Membership, api: WorkerApi
) -> Supervisor | None:
    """Make the supervisor of the workers that a launcher file asks for; None without such a file.

    Raises:
        BadSetting: the file, or what is asked of it, is wrong.
    """
    if settings.launcher_config is None:
        if settings.min_ready is not None:
            raise BadSetting("--min-ready", "needs workers that the router starts (--launcher-config)")
        return None
    wanted = config.read(Path(settings.launcher_config))
    if settings.min_ready is not None and settings.min_ready > wanted.num_workers:
        raise BadSetting("--min-ready", f"is {settings.min_ready}, and there are to be {wanted.num_workers} workers")
    roster = FleetRoster(fleet, membership, api, timeout_s=settings.probe_timeout_s)
    patience = Patience(
        wait_s=wanted.wait_timeout_s,
        stop_s=wanted.stop_timeout_s,
        restarts=RestartLimits(
            wanted.restart_delay_s, wanted.restart_delay_max_s, wanted.restart_limit, wanted.restart_window_s
        ),
    )
    return Supervisor(backend(wanted, environ), roster, patience)


def backend(wanted: config.LauncherConfig, environ: Mapping[str, str]) -> Backend:
    """Make the backend that a launcher file names."""
    match wanted.backend:
        case config.BackendName.LOCAL:
            return LocalBackend(wanted, environ, default_log_dir(environ))
        case config.BackendName.RAY:
            return RayBackend(wanted)
        case config.BackendName.EXTERNAL:
            return ExternalBackend(wanted, environ, default_log_dir(environ))
