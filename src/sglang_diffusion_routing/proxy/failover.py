"""What becomes of a piece of work that its worker fails: another worker, or the client's error."""

from __future__ import annotations

import structlog

from sglang_diffusion_routing.core.retry import Failure, may_retry
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.errors import ConnectFailed, RouterError, UpstreamDied, UpstreamTimeout
from sglang_diffusion_routing.http1.tunnel import Tunnel
from sglang_diffusion_routing.proxy.leased import Leased

_log = structlog.get_logger(__name__)

STALE_S = 1.0
"""A reused connection that breaks within this time of the request may have been closed by an idle worker before it."""

_BUDGETED = frozenset({Failure.STATUS, Failure.TIMED_OUT})


class Failover(Leased):
    """A request whose worker may fail it."""

    __slots__ = ("_failed", "_is_retry", "_killed", "_result", "_tunnel")

    _killed: tuple[str, ...]
    _failed: int
    _result: Result | None
    _tunnel: Tunnel | None
    _is_retry: bool

    def on_connect_failed(self, error: ConnectFailed) -> None:
        if self._fresh_only:
            # It broke off just now and cannot be had again: that was no idle connection timing out, but its death.
            self._died(replayable=self.replayable)
            return
        self._last_error = error
        limits = self._shared.retry_limits
        if may_retry(Failure.CONNECT, limits, killed=len(self._killed), failed=self._failed):
            self._try_elsewhere(Result.CONNECT_FAILED, 0, error)
        else:
            self._result = Result.CONNECT_FAILED
            self.fail(error)

    def on_died(self, *, replayable: bool) -> None:
        worker = self._worker
        assert worker is not None
        stale = self._on_reused and self._reply is None and self._shared.leases.now_s() - self._sent_s < STALE_S
        if stale and replayable and not self._fresh_only:
            # The worker may have closed an idle connection in the moment it was used: ask it again on a fresh one.
            self._fresh_only = True
            self._open(worker)
        else:
            self._died(replayable=replayable)

    def _died(self, *, replayable: bool) -> None:
        worker = self._worker
        assert worker is not None
        self._killed += (str(worker.url),)
        self._failed += 1
        self._last_reply = None
        error = UpstreamDied(list(self._killed))
        if replayable and self._may_retry(Failure.DIED):
            self._try_elsewhere(Result.DIED, 0, error)
        else:
            self._result = Result.DIED
            self.fail(error)

    def _may_retry(self, failure: Failure) -> bool:
        """Tell whether what a worker has had may go to another.

        What a worker's death or sleep has cost goes on without a budget: the client is owed its reply.
        """
        shared = self._shared
        if not may_retry(failure, shared.retry_limits, killed=len(self._killed), failed=self._failed):
            return False
        if self._is_pinned:
            # No other worker may have it: asking again only finds the words for that, where nothing ran.
            return failure is Failure.ASLEEP
        if failure not in _BUDGETED:
            return True
        if not self._is_retry:
            scheduler = shared.leases.scheduler
            self._is_retry = shared.retry_budget.take(scheduler.live_leases + scheduler.queued)
            shared.counters.retries_over_budget += not self._is_retry
        return self._is_retry

    def _try_elsewhere(self, result: Result, status: int, error: RouterError | None) -> None:
        assert self._worker is not None
        self._avoid |= {self._worker.worker_id}
        self._last_error = error
        self._result = None
        self._shared.counters.retries += not self._is_pinned
        _log.info(
            "request_tried_elsewhere",
            request_id=self.request_id.decode("latin-1"),
            worker=self._worker.worker_id,
            why=result.name.lower() if error is None else error.message,
        )
        self.retry()
        self._release(result, status)
        self._ask_elsewhere()

    def _ask_elsewhere(self) -> None:
        """Let another worker do it."""
        self._ask()

    def on_body_lost(self) -> None:
        # The disk is to blame, and not this worker: the client learns what went wrong before.
        self.fail(self._last_error or UpstreamDied(list(self._killed)))

    def lease_cancelled(self, reason: str) -> None:
        """The worker is lost: what has not begun to answer goes elsewhere."""
        if self._tunnel is not None:
            self._tunnel.close()
            return
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
            assert self._worker is not None
            self.on_connect_failed(ConnectFailed(str(self._worker.url), reason))
            return
        upstream = self.upstream
        self._on_reused = False
        self.upstream_lost(None)
        if upstream is not None:
            upstream.close()

    def _timed_out(self, timeout_s: float) -> None:
        """The worker is late: the client is told, the worker stays charged, for it works on."""
        self._timer = None
        worker = self._worker
        if worker is not None and self.has_clients and not self.reply_begun and self._tunnel is None:
            self.fail_and_await(UpstreamTimeout(str(worker.url), timeout_s))
