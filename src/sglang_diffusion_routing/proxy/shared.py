"""What all conversations of one data plane share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sglang_diffusion_routing.core.hedge import HEDGED_PERCENT, HEDGED_SPARE
from sglang_diffusion_routing.core.retry import RetryBudget, RetryLimits
from sglang_diffusion_routing.core.work import Lease, WorkSpec
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.http1.pool import Upstreams
from sglang_diffusion_routing.http1.replay import Spools
from sglang_diffusion_routing.http1.tunnel import Tunnel
from sglang_diffusion_routing.proxy.access import Access
from sglang_diffusion_routing.proxy.counters import DataPlaneCounters
from sglang_diffusion_routing.proxy.heads import HeadWriter
from sglang_diffusion_routing.proxy.keyed_heads import KeyedHeads
from sglang_diffusion_routing.proxy.ports import JobLocator, Leases
from sglang_diffusion_routing.proxy.repeats import Repeats
from sglang_diffusion_routing.proxy.shape import Fields
from sglang_diffusion_routing.proxy.terms import TENANT
from sglang_diffusion_routing.settings import TIMEOUT, RoutingAlgorithm, Settings

if TYPE_CHECKING:
    from sglang_diffusion_routing.proxy.attempt import Attempt

MAX_SPECS = 4096
"""Specs that are remembered; a trainer's requests have a handful of shapes, but clients may ask for what they like."""


class JobKeeper(Protocol):
    """Remembers who made what, and takes over the lease of a job that goes on."""

    def learn(self, kind: str, job_id: str, worker: Worker) -> None:
        """A reply named a new thing that this worker has made."""

    def watch(self, kind: str, job_id: str, lease: Lease) -> None:
        """The lease's worker has begun a job: the lease is the keeper's from now on, and ends with the job."""

    def save_then(self, act: Callable[[], None]) -> bool:
        """Call `act` when all that was learnt will outlive the router, or after a few seconds; False: act now."""

    def heard(self, kind: str, job_id: str, body: bytes) -> None:
        """A client has asked for a job's status; this is what the worker said."""

    def deleted(self, kind: str, job_id: str) -> None:
        """A client has deleted a job, which goes on in the engine nonetheless."""


class Tunnels:
    """The upgraded connections that are open now."""

    def __init__(self, counters: DataPlaneCounters) -> None:
        self._open: set[Tunnel] = set()
        self._counters = counters

    def __len__(self) -> int:
        return len(self._open)

    def add(self, tunnel: Tunnel) -> None:
        self._open.add(tunnel)
        self._counters.tunnels += 1
        self._counters.tunnels_now += 1

    def discard(self, tunnel: Tunnel) -> None:
        self._open.discard(tunnel)
        self._counters.tunnels_now = len(self._open)

    def tick(self, now_s: float, idle_s: float) -> None:
        """Close those that have been silent for `idle_s`."""
        for tunnel in list(self._open):
            tunnel.tick(now_s, idle_s)

    def restart_all(self) -> None:
        """Tell every client to come back, and close."""
        for tunnel in list(self._open):
            tunnel.restart_elsewhere()


class Shared:
    """Collaborators and counts.

    attempts: those that are under way beside a piece of work, or were left behind by one.
    replay_max_bytes, queue_timeout_s, timeout_s: of the settings, whose own attributes cost 20 times more to read.
    tenant_field: that names a request's tenant. own_terms: whether requests that state no terms may still have some.
    hashes: whether what a request is to make says which worker it goes to.
    specs: those that many requests have in common, by route name, size in KiB and what the body says of its work.
    """

    __slots__ = (
        "access",
        "attempts",
        "control_path",
        "counters",
        "hashes",
        "heads",
        "hedge_budget",
        "jobs",
        "leases",
        "locator",
        "own_terms",
        "queue_timeout_s",
        "repeats",
        "replay_max_bytes",
        "retry_budget",
        "retry_limits",
        "settings",
        "specs",
        "spools",
        "tenant_field",
        "timeout_s",
        "tunnels",
        "upstreams",
    )

    def __init__(
        self,
        settings: Settings,
        leases: Leases,
        upstreams: Upstreams,
        jobs: JobKeeper,
        locator: JobLocator,
        control_path: str,
        access: Access,
    ) -> None:
        self.settings = settings
        self.access = access
        self.replay_max_bytes = settings.replay_max_bytes
        self.queue_timeout_s = settings.queue_timeout_s
        self.timeout_s = settings.timeout_s
        self.hashes = settings.routing_algorithm is RoutingAlgorithm.CONSISTENT_HASH
        self.tenant_field = settings.tenant_field.encode()
        self.own_terms = settings.queue_timeout_s is not None or self.tenant_field != TENANT
        self.leases = leases
        self.upstreams = upstreams
        self.jobs = jobs
        self.locator = locator
        self.control_path = control_path
        self.counters = DataPlaneCounters()
        self.specs: dict[tuple[str, int, Fields], WorkSpec] = {}
        self.heads = KeyedHeads(access) if access.rewrites_heads else HeadWriter()
        self.repeats = Repeats(self.tenant_field)
        statuses = frozenset(what for what in settings.retry_on if isinstance(what, int))
        self.retry_limits = RetryLimits(settings.retries, statuses, timeouts=TIMEOUT in settings.retry_on)
        self.retry_budget = RetryBudget(settings.retry_budget_percent)
        self.hedge_budget = RetryBudget(HEDGED_PERCENT, HEDGED_SPARE)
        self.attempts: set[Attempt] = set()
        self.spools = Spools(
            folder=settings.replay_spool_dir,
            max_bytes=settings.replay_spool_max_bytes,
            total_bytes=settings.replay_spool_total_bytes,
        )
        self.tunnels = Tunnels(self.counters)
