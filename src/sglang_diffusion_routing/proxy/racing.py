"""A piece of work with one more attempt beside its own: the first answer is the client's, and neither is stopped."""

from __future__ import annotations

from sglang_diffusion_routing.core.retry import Failure, may_retry
from sglang_diffusion_routing.core.work import Lease, Result
from sglang_diffusion_routing.errors import Aborted, RouterError, UpstreamDied, UpstreamTimeout
from sglang_diffusion_routing.http1.phase import Phase
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.proxy.attempt import Attempt
from sglang_diffusion_routing.proxy.failover import Failover
from sglang_diffusion_routing.proxy.seeds import names_a_seed

_WAITING, _AWAITING, _HOLDING = Phase.WAITING, Phase.AWAITING, Phase.HOLDING
_BEFORE_REPLY = frozenset({_WAITING, _AWAITING, _HOLDING})


class Racing(Failover):
    """A request that may be under way twice: a copy that was made of it, or what it has set aside for being late.

    _seeded: whether the body fixes the result, so that a copy makes the same; None while nobody has looked.
    _was_late: it has been set aside for another worker once.
    """

    __slots__ = ("_beside", "_seeded", "_was_late")

    _beside: Attempt | None
    _seeded: bool | None
    _was_late: bool

    # a copy

    def may_be_copied(self) -> bool:
        """Tell whether another worker could do the same, for a client that still waits."""
        worker = self._worker
        if self.phase is not _AWAITING or self._beside is not None or worker is None:
            return False
        if not (self.body_done and self._kept is not None and worker.updates == self._updates):
            return False
        if self._seeded is None:
            self._seeded = names_a_seed(self._body(), self.head.field(b"content-type") or b"")
        return self._seeded

    def copy_to(self, lease: Lease) -> None:
        """Have the same done by one more worker."""
        copy = self._beside = self._attempt(lease, is_copy=True)
        self._shared.counters.hedges += 1
        copy.send([self.upstream_head(lease.worker.worker_id), *(self._kept or ())], decode_chunks=self.head.http_10)

    def _attempt(self, lease: Lease, *, is_copy: bool) -> Attempt:
        worker = lease.worker
        return Attempt(self._shared, self, lease, worker.loaded, worker.updates, is_copy=is_copy)

    # what the attempt says

    def wants_reply(self) -> bool:
        """Tell whether somebody waits for a reply of which nothing has been passed on yet."""
        return self.has_clients and not self.reply_begun and self.phase in _BEFORE_REPLY

    def take_over(self, attempt: Attempt, head: ReplyHead, span: bytes, done: bool) -> None:
        """The attempt answers first: its reply is passed on, and what is its own is left behind."""
        self._beside = None
        self._leave(attempt)
        self._adopt(attempt)
        self.reply_began(head, span, done)

    def attempt_sent(self, attempt: Attempt) -> None:
        """A copy is under way: by now it may be all that there is."""
        if self._has_nothing_else:
            self._lean()

    def attempt_ended(self, attempt: Attempt, result: Result) -> None:
        """It has come to nothing, and its own goes on, if there is one."""
        self._beside = None
        worker = attempt.lease.worker
        self._avoid |= {worker.worker_id}
        if result is Result.DIED:
            self._killed += (str(worker.url),)
            self._failed += 1
        if self._has_nothing_else:
            # The copy has never reached its worker.
            if may_retry(Failure.CONNECT, self._shared.retry_limits, killed=len(self._killed), failed=self._failed):
                self._ask()
            else:
                self.refused(self._last_error or UpstreamDied(list(self._killed)))

    # changing places

    @property
    def _has_nothing_else(self) -> bool:
        return self.phase is _WAITING and self._lease is None and self._ticket is None

    def _set_aside(self) -> Attempt:
        """Let its own attempt go on beside, and be without one."""
        lease, upstream = self._lease, self.upstream
        assert lease is not None
        assert upstream is not None
        self._cancel_timer()
        aside = self._attempt(lease, is_copy=False)
        aside.loaded, aside.updates, aside.full = self._loaded, self._updates, self._upstream_full
        reply, held = self._reply, self._held
        self._lease = self.upstream = self._reply = self._held = None
        self._held_bytes = 0
        self.phase = _WAITING
        aside.go_on(upstream, reply, held)
        return aside

    def _leave(self, winner: Attempt) -> None:
        """Be rid of what is under way of its own: the worker works on, and is charged for as long as it does."""
        if self._ticket is not None:
            self._shared.leases.abandon(self._ticket)
            self._ticket = None
        elif self.upstream is not None:
            behind = self._set_aside()
            # Until both are done, there is one piece of work too many.
            behind.is_hedge, winner.is_hedge = winner.is_hedge, False
            behind.let_go()
        elif self._connecting is not None:
            self._cancel_connecting()
            self._release(Result.ABANDONED, 0)

    def _adopt(self, attempt: Attempt) -> None:
        """Go on with an attempt as if it had been its own all along."""
        self.upstream = upstream = attempt.hand_over()
        upstream.sink = self
        self._lease = lease = attempt.lease
        lease.holder = self
        self._worker = lease.worker
        self._loaded, self._updates = attempt.loaded, attempt.updates
        self._upstream_full = attempt.full
        self._on_reused = self._fresh_only = False
        self.phase = _AWAITING
        self._shared.counters.hedges_won += attempt.is_copy

    def _lean(self) -> None:
        """Be left with the attempt beside, which gets its own time; one that still connects is waited for."""
        beside = self._beside
        if beside is not None and beside.upstream is not None:
            self._beside = None
            self._adopt(beside)
            self._start_timer()

    def _fall_back(self, result: Result, status: int) -> None:
        """Give up its own attempt, which has failed, for the one beside."""
        if self._worker is not None:
            self._avoid |= {self._worker.worker_id}
        self.retry()
        self._result = None
        self.worker_failed = False
        self._release(result, status)
        self._lean()

    # failures

    def _ask_elsewhere(self) -> None:
        if self._beside is not None and self._beside.is_copy:
            # It is elsewhere already.
            self._lean()
        else:
            super()._ask_elsewhere()

    def _timed_out(self, timeout_s: float) -> None:
        worker, beside = self._worker, self._beside
        if beside is None and worker is not None and self._may_set_aside():
            self._timer = None
            self._was_late = True
            self._avoid |= {worker.worker_id}
            self._last_error = UpstreamTimeout(str(worker.url), timeout_s)
            self._shared.counters.retries += 1
            self._beside = self._set_aside()
            self._ask()
        elif beside is not None and self._shared.retry_limits.timeouts and not self._was_late:
            # It is elsewhere already, and that worker has its own time.
            self._was_late = True
            self._start_timer()
        else:
            super()._timed_out(timeout_s)

    def _may_set_aside(self) -> bool:
        """Tell whether work that is late may go to another worker as well, once."""
        may = self.phase is _AWAITING and self.has_clients and self.body_done and self.replayable
        if not may or self._was_late or self._route.creates_job:
            return False
        self._failed += 1
        return self._may_retry(Failure.TIMED_OUT)

    def fail(self, error: RouterError) -> None:
        if self._beside is None or not self.has_clients:
            super().fail(error)
            return
        self._last_error = error
        self._failed += self.worker_failed
        self._drop_upstream()
        self._fall_back(self._result or (Result.DIED if self.worker_failed else Result.ABANDONED), 0)

    def refused(self, error: RouterError) -> None:
        beside = self._beside
        if beside is None or isinstance(error, Aborted):
            self._part()
            super().refused(error)
            return
        # Nobody else can have it: the client is told that it is late, as if nothing had been tried.
        self._ticket = self._beside = None
        self._adopt(beside)
        self.fail_and_await(self._last_error or error)

    def _nobody_left(self) -> None:
        beside = self._beside
        if beside is not None and beside.upstream is not None and self.upstream is None and self.phase is _WAITING:
            # What is under way is there for a client that comes back.
            self._beside = None
            self._leave(beside)
            self._adopt(beside)
        super()._nobody_left()

    def _part(self) -> None:
        """Have no more to do with the attempt beside."""
        beside = self._beside
        self._beside = None
        if beside is not None:
            beside.let_go()
