"""Groups of requests: where each is kept or has been, and what its newest weights were."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from sglang_diffusion_routing.core.work import Ticket
from sglang_diffusion_routing.core.worker import WorkerId

DEFAULT_CAP = 65_536
"""A group with one worker takes about 1 kB, so a full map about 65 MB."""
DEFAULT_TTL_S = 3_600.0
"""Samples of one prompt come within one rollout; what a group is kept for is gone from its worker's caches by then."""


class Group:
    """Requests that one client calls the same.

    worker: where members are kept, None while they may go anywhere.
    had: members that each worker has been given.
    newest: for each weight group, the place in its order of the newest weights that a member has been given.
    live: number of members on workers. waiting: those in the queue.
    idle_since_s: instant at which the last of them ended or left.
    """

    __slots__ = ("had", "idle_since_s", "live", "name", "newest", "waiting", "worker")

    def __init__(self, name: str) -> None:
        self.name = name
        self.worker: WorkerId | None = None
        self.had: dict[WorkerId, int] = {}
        self.newest: dict[str, int] = {}
        self.live = 0
        self.waiting: dict[Ticket, None] = {}
        self.idle_since_s = 0.0


class Groups:
    """The groups by name. One with a member that waits or runs is kept; of the others the longest idle go first.

    Every step is O(1), amortised.
    """

    def __init__(self, cap: int = DEFAULT_CAP, ttl_s: float = DEFAULT_TTL_S) -> None:
        self._cap = cap
        self._ttl_s = ttl_s
        self._groups: dict[str, Group] = {}
        self._idle: OrderedDict[str, Group] = OrderedDict()
        self._kept: dict[WorkerId, dict[Group, None]] = {}
        self._now_s = 0.0

    def __len__(self) -> int:
        return len(self._groups)

    def join(self, name: str, now_s: float) -> Group:
        """Give the group of this name, new or not."""
        self._now_s = now_s
        while self._idle and next(iter(self._idle.values())).idle_since_s + self._ttl_s <= now_s:
            self._forget_oldest()
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name)
            self._rest(group)
        return group

    def __getitem__(self, name: str) -> Group:
        """Give a group that has a member, or had one just now."""
        return self._groups[name]

    def keep(self, group: Group, worker_id: WorkerId | None) -> None:
        """Keep a group's members on this worker from now on; None for nowhere."""
        if group.worker is not None:
            kept = self._kept[group.worker]
            del kept[group]
            if not kept:
                del self._kept[group.worker]
        group.worker = worker_id
        if worker_id is not None:
            self._kept.setdefault(worker_id, {})[group] = None

    def kept_on(self, worker_id: WorkerId) -> Collection[Group]:
        """Give the groups that are kept on a worker."""
        return list(self._kept.get(worker_id, ()))

    def keepers(self) -> Collection[WorkerId]:
        """Give the workers that groups are kept on."""
        return list(self._kept)

    def waits(self, ticket: Ticket) -> None:
        """A member is in the queue; it has joined."""
        group = self._groups[ticket.spec.group]
        group.waiting[ticket] = None
        self._idle.pop(group.name, None)

    def waits_no_more(self, ticket: Ticket) -> None:
        """A member has left the queue, to a worker or not."""
        group = self._groups[ticket.spec.group]
        del group.waiting[ticket]
        self._rest(group)

    def granted(self, name: str, worker_id: WorkerId, now_s: float) -> Group:
        """A member has been given to a worker."""
        group = self.join(name, now_s)
        group.live += 1
        group.had[worker_id] = group.had.get(worker_id, 0) + 1
        self._idle.pop(name, None)
        return group

    def ended(self, name: str, now_s: float) -> Group:
        """A member has ended."""
        group = self._groups[name]
        group.live -= 1
        self._now_s = now_s
        self._rest(group)
        return group

    def _rest(self, group: Group) -> None:
        if group.live or group.waiting:
            return
        group.idle_since_s = self._now_s
        self._idle[group.name] = group
        while len(self._groups) > self._cap and len(self._idle) > 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        name, group = self._idle.popitem(last=False)
        self.keep(group, None)
        del self._groups[name]
