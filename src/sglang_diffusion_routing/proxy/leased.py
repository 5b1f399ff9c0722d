"""A piece of work with its lease: asked for, waited for, held, and given back once."""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from sglang_diffusion_routing.core.weights import Loaded
from sglang_diffusion_routing.core.work import Holder, Lease, Result, Ticket
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import Aborted, RouterError
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from sglang_diffusion_routing.proxy.asking import Asking
from sglang_diffusion_routing.settings import OnDisconnect


class Leased(Asking, Holder):
    """A request that has, or waits for, a worker's time."""

    __slots__ = (
        "_fresh_only",
        "_is_orphan",
        "_last_error",
        "_last_reply",
        "_loaded",
        "_on_reused",
        "_queued_s",
        "_sent_s",
        "_timer",
        "_updates",
        "_worker",
    )

    _worker: Worker | None
    _last_error: RouterError | None
    _last_reply: tuple[ReplyHead, bytes] | None
    _fresh_only: bool
    _on_reused: bool
    _sent_s: float
    _queued_s: float
    _loaded: Loaded
    _updates: int
    _timer: asyncio.TimerHandle | None
    _is_orphan: bool

    def _ask(self) -> None:
        leases = self._shared.leases
        try:
            got = leases.acquire(self._spec(), self)
        except RouterError as error:
            self.refused(error)
            return
        if isinstance(got, Lease):
            self._go(got)
        else:
            self._ticket = got

    def granted(self, lease: Lease) -> None:
        """A worker came free."""
        self._ticket = None
        self._go(lease)

    def refused(self, error: RouterError) -> None:
        """No worker will come: answer with what went wrong on the last one, if any was tried."""
        if self._ticket is not None:
            self._waited_in_vain(self._ticket)
            self._ticket = None
        if isinstance(error, Aborted):
            # Somebody wanted that, whatever had gone wrong before.
            self.fail(error)
        elif self._last_reply is not None:
            self.answer(*self._last_reply)
        else:
            self.fail(self._last_error or error)

    def _waited_in_vain(self, ticket: Ticket) -> None:
        self._queued_s += self._shared.leases.now_s() - ticket.enqueued_s

    def _go(self, lease: Lease) -> None:
        self._lease = lease
        self._worker = worker = lease.worker
        self._loaded = worker.loaded
        self._updates = worker.updates
        self._queued_s += lease.queued_s
        self._fresh_only = False
        lease.holder = self
        if self._shared.timeout_s is not None:
            self._start_timer()
        idle = self.upstreams.take(worker.worker_id)
        if idle is not None:
            self._on_reused = True
            self._sent_s = lease.granted_s
            self.start(idle)
        else:
            self._open(worker)

    def _start_timer(self) -> None:
        timeout_s = self._shared.timeout_s
        if timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self._timed_out, timeout_s)

    def _open(self, worker: Worker) -> None:
        self._connecting = self.upstreams.open(worker.worker_id, worker.url, self._opened, self.connect_failed)

    def _opened(self, upstream: UpstreamConnection) -> None:
        self._on_reused = upstream.reused
        self._sent_s = self._shared.leases.now_s()
        self.start(upstream)

    @abstractmethod
    def _timed_out(self, timeout_s: float) -> None:
        """The worker is late with its reply."""

    def on_orphaned(self) -> None:
        settings = self._shared.settings
        self._count_orphan(1)
        if settings.on_disconnect == OnDisconnect.CANCEL:
            self.give_up()
            return
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(settings.orphan_timeout_s, self.give_up)

    def on_rejoined(self) -> None:
        self._count_orphan(-1)
        self._cancel_timer()
        self._start_timer()

    def _count_orphan(self, change: int) -> None:
        counters = self._shared.counters
        self._is_orphan = change > 0
        counters.orphans_now += change
        counters.orphans += self._is_orphan

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self, result: Result, status: int) -> None:
        if self._timer is not None:
            self._cancel_timer()
        lease = self._lease
        self._lease = None
        if lease is not None:
            lease.holder = None
            self._shared.leases.release(lease, result, status)
