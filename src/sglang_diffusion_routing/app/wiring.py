"""Build the router from its settings: who knows whom is decided here and nowhere else."""

from __future__ import annotations

import asyncio
import os
import random
from functools import partial
from pathlib import Path

import structlog

from sglang_diffusion_routing import dashboard
from sglang_diffusion_routing.api.app import build as build_api
from sglang_diffusion_routing.api.plane import ControlPlane
from sglang_diffusion_routing.app import info, launcher, pictures, tls
from sglang_diffusion_routing.app.audit_log import audit_file, reopened
from sglang_diffusion_routing.app.control_server import ControlServer
from sglang_diffusion_routing.app.keys import access_of, from_files, rereader
from sglang_diffusion_routing.app.limits import health_limits, scheduler_limits
from sglang_diffusion_routing.app.reload import Reloads
from sglang_diffusion_routing.app.restore import restore, summary
from sglang_diffusion_routing.app.samples import Sources, reader
from sglang_diffusion_routing.app.state_file import open_state
from sglang_diffusion_routing.app.traces import traces
from sglang_diffusion_routing.control.brackets import Brackets
from sglang_diffusion_routing.control.broadcast import Broadcast
from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.discovered import Discovered
from sglang_diffusion_routing.control.gate import Gate
from sglang_diffusion_routing.control.jobs import JobLocator, JobProbe
from sglang_diffusion_routing.control.lists import Lists
from sglang_diffusion_routing.control.membership import Membership
from sglang_diffusion_routing.control.memory import Memory
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.control.resync import Resyncer
from sglang_diffusion_routing.control.sentinel import Sentinels
from sglang_diffusion_routing.control.weights import Weights
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.blackhole import BlackHoles
from sglang_diffusion_routing.core.discovery import parse_source
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import ShuttingDown
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.launchers.discovery.watch import Watch
from sglang_diffusion_routing.launchers.supervisor import Supervisor
from sglang_diffusion_routing.proxy.request_log import RequestLog
from sglang_diffusion_routing.proxy.server import DataPlane
from sglang_diffusion_routing.proxy.story import Teller
from sglang_diffusion_routing.proxy.tracing import Tracing
from sglang_diffusion_routing.runtime.audit import Audit
from sglang_diffusion_routing.runtime.effects import Effects
from sglang_diffusion_routing.runtime.lag import Lag
from sglang_diffusion_routing.runtime.loop import Fleet
from sglang_diffusion_routing.runtime.saver import Saver
from sglang_diffusion_routing.settings import Settings
from sglang_diffusion_routing.store import Saved
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

TICK_S = 0.25
"""How exactly drains and waits in the queue keep their deadlines."""


class App:
    """A whole router. Made and run on one event loop.

    Attributes:
        port, admin_port: where it listens, once started; the second is None where control has no listener of its own.
        reloads: what is read again on SIGHUP.
        restored: what was restored and from where, once started; empty when nothing was.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        rng = random.Random(settings.seed)
        pool = Pool(
            health_limits(settings),
            settings.drain_timeout_s,
            resync=settings.resync,
            hands_off=settings.hands_off,
        )
        self._saver = Saver(settings.job_ttl_s)
        self._fleet = fleet = Fleet(
            pool,
            Scheduler(scheduler_limits(settings), pool.ledger, rng, settings.routing_algorithm.value),
            Affinity(settings.job_cap, settings.job_ttl_s),
            BlackHoles(),
            self._saver,
        )
        allowed = AllowList.parse(settings.allow_worker)
        self._connector = connector = Connector(allowed)
        self.reloads = Reloads()
        self._access = access = access_of(settings)
        if from_files(settings):
            self.reloads.add("keys", rereader(settings, access))
        self._audit = Audit()
        self._api = api = WorkerApi(connector, connect_timeout_s=settings.connect_timeout_s, key_of=access.worker_key)
        self._prober = Prober(
            fleet, api, interval_s=settings.health_check_interval_s, timeout_s=settings.probe_timeout_s, rng=rng
        )
        self._sentinels = Sentinels(
            fleet.apply, self._open_since, connect_timeout_s=settings.connect_timeout_s, connector=connector
        )
        limit_s, reply_bytes = settings.fan_out_timeout_s, settings.fan_out_reply_max_bytes
        self._traces = traces(settings)
        tracer = self._traces.tracer
        self._baselines = baselines = Baselines(fleet, api, call_limit_s=limit_s)
        self._refitter = Refitter(
            fleet, api, baselines, call_limit_s=limit_s, max_reply_bytes=reply_bytes, shelf=self._saver, tracer=tracer
        )
        self._resyncer = Resyncer(
            fleet, api, baselines, call_limit_s=limit_s, max_reply_bytes=reply_bytes, tracer=tracer
        )
        self._effects = Effects(
            fleet, api, self._prober, self._sentinels, self._refitter, self._resyncer, call_limit_s=limit_s
        )
        fleet.run_command = self._effects.run
        self._locator = JobLocator(fleet, api, timeout_s=settings.probe_timeout_s)
        self._membership = Membership(
            fleet,
            self._prober,
            allowed,
            # Two questions: for its health, and for what it makes.
            first_probe_limit_s=2 * settings.probe_timeout_s,
        )
        self._discovery = Watch(
            [parse_source(source) for source in settings.discover],
            Discovered(fleet, self._membership),
            interval_s=settings.discover_interval_s,
        )
        self._gallery = pictures.gallery(settings, fleet)
        self._request_log = RequestLog() if settings.access_log else None
        self._control = ControlServer()
        job_probe = JobProbe(api, timeout_s=settings.probe_timeout_s, barrier_limit_s=settings.fan_out_timeout_s)
        self._data_plane = DataPlane(
            settings,
            fleet,
            self._locator,
            job_probe,
            self._saver,
            self._control.path,
            self._gallery,
            connector=connector,
            access=access,
            tellers=self._tellers(),
        )
        self._tasks = Tasks()
        self._lag = Lag()
        self._supervisor: Supervisor | None = None
        self.restored = ""

    @property
    def port(self) -> int:
        return self._data_plane.port

    @property
    def admin_port(self) -> int | None:
        return self._data_plane.admin_port

    @property
    def supervisor(self) -> Supervisor | None:
        """Who keeps the workers running that the router starts, once started; None when it starts none."""
        return self._supervisor

    def _plane(self) -> ControlPlane:
        settings, fleet, api = self._settings, self._fleet, self._api
        limit_s, reply_bytes = settings.fan_out_timeout_s, settings.fan_out_reply_max_bytes
        return ControlPlane(
            settings=settings,
            fleet=fleet,
            membership=self._membership,
            memory=Memory(
                fleet, drain_limit_s=settings.drain_timeout_s, call_limit_s=limit_s, tracer=self._traces.tracer
            ),
            broadcast=Broadcast(fleet, api, timeout_s=limit_s, max_reply_bytes=reply_bytes),
            refitter=self._refitter,
            brackets=Brackets(self._refitter, part_limit_s=settings.refit_part_timeout_s),
            weights=Weights(fleet, self._baselines, self._refitter.turns),
            gate=Gate(fleet),
            lists=Lists(fleet, api, self._locator, timeout_s=settings.probe_timeout_s),
            supervisor=self._supervisor,
            gallery=self._gallery,
            samples=reader(
                Sources(
                    fleet=fleet,
                    data_plane=self._data_plane,
                    api=api,
                    prober=self._prober,
                    sentinels=self._sentinels,
                    refitter=self._refitter,
                    resyncer=self._resyncer,
                    lag=self._lag,
                    supervisor=self._supervisor,
                    gallery=self._gallery,
                )
            ),
            info=info.reader(settings, self._data_plane.counters, self._saver),
            audit=self._audit,
        )

    def _tellers(self) -> list[Teller]:
        tellers: list[Teller] = []
        if self._traces.are_made:
            tellers.append(Tracing(self._traces.tracer, scheme="http" if self._settings.tls_cert is None else "https"))
        if self._request_log is not None:
            tellers.append(self._request_log)
        return tellers

    def _open_since(self, worker_id: WorkerId, before_s: float) -> int:
        return self._data_plane.open_since(worker_id, before_s) + self._api.open_since(worker_id, before_s)

    async def start(self) -> None:
        """Listen, and begin to look after the workers; those that the router starts are not there yet.

        Raises:
            OSError: the address cannot be had; nothing is left behind.
            InvalidWorkerUrl: one of the workers to begin with may not be one; nothing is left behind.
            StateUnusable: with its kinds; nothing is left behind, and the file as it is.
            BadSetting: the state, the workers or the audit log that are asked for cannot be.
        """
        try:
            self._open_audit()
            tls.use(self._settings, self._connector, self._data_plane, self.reloads)
            self._supervisor = launcher.supervisor(self._settings, os.environ, self._fleet, self._membership, self._api)
            if self._supervisor is not None:
                await self._supervisor.prepare()
            saved = await self._open_state()
            running = [] if saved is None else restore(self._fleet, saved, self._settings.job_ttl_s)
            for job in running:
                # Before the first worker answers: none is checked, or sent anything, in the middle of a job.
                self._data_plane.jobs.adopt(job.kind, job.job_id, job.worker)
            for url in self._settings.worker_urls:
                await self._membership.enlist(url)
            await self._discovery.start()
            await self._control.start(build_api(self._plane(), dashboard.router))
            await self._data_plane.start()
        except BaseException:
            await self.abort()
            raise
        self._saver.start()
        # Two questions each: for a worker's health, and for what it makes.
        self._refitter.restore(saved.refits if saved else (), within_s=2 * self._settings.probe_timeout_s)
        self._prober.start()
        self._lag.start()
        self._tasks.spawn(self._tick(), name="tick")
        if self._supervisor is not None:
            self._supervisor.start()
        # Whoever is told that the router is up may kill it: the workers that it was started with are known by then.
        await self._saver.flush()

    def _open_audit(self) -> None:
        path = self._settings.audit_log
        if path is not None:
            file = audit_file(Path(path))
            self._audit.keep_in(file)
            self.reloads.add("audit log", partial(reopened, file))

    async def _open_state(self) -> Saved | None:
        """Have what changes written down from now on, and give what is to be restored."""
        opened = await open_state(self._settings)
        if opened is None:
            return None
        store, saved = opened
        self._saver.attach(store, () if saved is None else saved.workers)
        if saved is not None:
            self.restored = f"{summary(saved)} from {store.path}"
        return saved

    async def workers_ready(self) -> None:
        """Wait until as many of the workers that the router starts serve as are to.

        Raises:
            WorkersNotReady: they will not.
        """
        if self._supervisor is not None:
            wanted = self._settings.min_ready
            await self._supervisor.wait_ready(len(self._supervisor.slots) if wanted is None else wanted)

    async def stop(self) -> None:
        """End in order: take nothing new, refuse what waits, let what runs finish within the grace, then close.

        The workers that the router has started end within the same grace, once their work has.
        """
        began_s = self._fleet.now_s()
        if self._supervisor is not None:
            self._supervisor.stop_restarting()
        self._data_plane.stop_accepting()
        self._fleet.watch.close()
        refused = self._fleet.drop_queued(ShuttingDown())
        _log.info("shutting_down", refused=refused, in_flight=self._fleet.scheduler.live_leases)
        finished = await self._data_plane.drain(self._settings.shutdown_grace_s)
        if not finished:
            _log.warning("shutdown_grace_over", in_flight=self._fleet.scheduler.live_leases)
        if self._supervisor is not None:
            await self._data_plane.close()
            await self._supervisor.stop(max(began_s + self._settings.shutdown_grace_s - self._fleet.now_s(), 0.0))
        await self.abort()

    async def abort(self) -> None:
        """Close everything now, and remove the control app's socket; safe to repeat.

        However hasty, it is an end that somebody wanted: a router that had started leaves its state in order.
        """
        self._lag.stop()
        await self._data_plane.close()
        if self._supervisor is not None:
            await self._supervisor.aclose()
        await self._discovery.aclose()
        await self._tasks.cancel_all()
        await self._refitter.aclose()
        await self._effects.aclose()
        if self._gallery is not None:
            await self._gallery.aclose()
        await self._baselines.aclose()
        await self._locator.aclose()
        await self._prober.aclose()
        await self._sentinels.aclose()
        await self._control.stop()
        await self._api.aclose()
        await self._saver.aclose(clean=True)
        await asyncio.to_thread(self._audit.close)
        await self._traces.aclose()
        if self._request_log is not None:
            await asyncio.to_thread(self._request_log.close)

    async def _tick(self) -> None:
        while True:
            self._fleet.tick()
            await asyncio.sleep(TICK_S)


def build(settings: Settings) -> App:
    """Build a router on the running event loop; `App.start` starts it."""
    return App(settings)
