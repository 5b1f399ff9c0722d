"""Build the router from its settings: who knows whom is decided here and nowhere else."""

from __future__ import annotations

import random

from sglang_diffusion_routing.api.plane import ControlPlane
from sglang_diffusion_routing.app import info, pictures
from sglang_diffusion_routing.app.control_server import ControlServer
from sglang_diffusion_routing.app.keys import access_of, from_files, rereader
from sglang_diffusion_routing.app.limits import health_limits, scheduler_limits
from sglang_diffusion_routing.app.reload import Reloads
from sglang_diffusion_routing.app.samples import Sources, reader
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
from sglang_diffusion_routing.tasks import Tasks


class Parts:
    """All that a router is made of. Made on the event loop on which it will run; nothing runs yet.

    reloads: what is read again on SIGHUP.
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
