"""A whole router, from its start to its end."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import structlog

from sglang_diffusion_routing import dashboard
from sglang_diffusion_routing.api.app import build as build_api
from sglang_diffusion_routing.app import launcher, tls
from sglang_diffusion_routing.app.audit_log import audit_file, reopened
from sglang_diffusion_routing.app.restore import restore, summary
from sglang_diffusion_routing.app.state_file import open_state
from sglang_diffusion_routing.app.wiring import Parts
from sglang_diffusion_routing.errors import ShuttingDown
from sglang_diffusion_routing.launchers.supervisor import Supervisor
from sglang_diffusion_routing.settings import Settings
from sglang_diffusion_routing.store import Saved

_log = structlog.get_logger(__name__)

TICK_S = 0.25
"""How exactly drains and waits in the queue keep their deadlines."""


class App(Parts):
    """A router that can be started once. Made and run on one event loop.

    Attributes:
        port, admin_port: where it listens, once started; the second is None where control has no listener of its own.
        reloads: what is read again on SIGHUP.
        restored: what was restored and from where, once started; empty when nothing was.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
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
