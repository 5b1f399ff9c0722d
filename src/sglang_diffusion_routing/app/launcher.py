"""Make the supervisor that the settings ask for, and let it have to do with the workers that the router knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sglang_diffusion_routing.control.membership import Membership, Wanted
from sglang_diffusion_routing.control.prober import failure_of
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.events import HoldRequested, WakeRequested, WorkerDied
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.state import Health, Intent, WorkerState
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import BadSetting, Conflict, UnknownWorker
from sglang_diffusion_routing.launchers import config
from sglang_diffusion_routing.launchers.base import Backend
from sglang_diffusion_routing.launchers.external import ExternalBackend
from sglang_diffusion_routing.launchers.local import LocalBackend, default_log_dir
from sglang_diffusion_routing.launchers.ray import RayBackend
from sglang_diffusion_routing.launchers.roster import Answer
from sglang_diffusion_routing.launchers.slots import Patience, RestartLimits
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
        self._died_s: dict[str, float] = {}
        self._left: dict[int, Wanted] = {}

    @property
    def asleep(self) -> bool:
        return self._fleet.pool.asleep and not any(self._missed_waking(url) for url in self._enlisted.values())

    def _missed_waking(self, url: str) -> bool:
        """Tell whether a worker that died in its sleep has been asked to wake since: nobody was there to do it."""
        worker, died_s = self._find(url), self._died_s.get(url)
        if worker is None or died_s is None:
            return False
        return worker.state is WorkerState.SLEEPING and worker.since_s > died_s

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
        self._bury_sleepers()
        before = self._enlisted.get(slot)
        left = self._left.pop(slot, None)
        if before not in {None, url} and (old := self._find(before or "")) is not None:
            left = _wanted(old)
        self._fleet.saver.leave_out(str(WorkerUrl.parse(url)))
        (worker,) = await self._membership.register(Wanted(url) if left is None else replace(left, url=url))
        if before != url:
            self.dismiss(slot)
        self._enlisted[slot] = url
        self._died_s.pop(url, None)
        self._let_go_on(worker)

    def _bury_sleepers(self) -> None:
        """Remove the workers that died in their sleep once the fleet is awake: their successors have never slept.

        But for one whose successor a probe has met first: that is put to sleep, as is said of it, and has to be woken.
        """
        if self.asleep:
            return
        for slot, url in self._enlisted.items():
            worker = self._find(url)
            if worker is None or url not in self._died_s:
                continue
            if worker.state is WorkerState.SLEEPING and worker.sleep_first:
                self._left[slot] = _wanted(worker)
                self._membership.remove(worker, force=True)
            elif worker.state in {WorkerState.RELEASING, WorkerState.SLEEPING}:
                self._fleet.apply(WakeRequested(worker.worker_id))

    def _let_go_on(self, worker: Worker) -> None:
        """End the hold that a restart has begun; one of an operator stays."""
        if worker.incarnation in self._held:
            self._held.discard(worker.incarnation)
            if worker.intent is Intent.HOLD:
                self._fleet.apply(WakeRequested(worker.worker_id))

    def died(self, url: str, reason: str) -> None:
        worker = self._find(url)
        if worker is not None:
            self._died_s[url] = self._fleet.now_s()
            self._fleet.apply(WorkerDied(worker.worker_id, worker.incarnation, f"its process {reason}"))

    def dismiss(self, slot: int) -> None:
        url = self._enlisted.pop(slot, None)
        self._left.pop(slot, None)
        self._died_s.pop(url or "", None)
        # On other machines another slot's worker may have come to the address meanwhile.
        if url is not None and url not in self._enlisted.values():
            worker = self._find(url)
            if worker is not None:
                self._held.discard(worker.incarnation)
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


def _wanted(worker: Worker) -> Wanted:
    """Give what an operator has decided of a worker."""
    return Wanted(worker.worker_id, worker.labels, worker.max_concurrency)


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
