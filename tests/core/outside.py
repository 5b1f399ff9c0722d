"""What is promised of groups, worked out from what was asked and granted, and from the workers' records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from core.fleet import Asker
from sglang_diffusion_routing.core.work import Result, WorkSpec
from sglang_diffusion_routing.core.worker import Worker, WorkerId

FAILED = {Result.ASLEEP, Result.CONNECT_FAILED, Result.DIED, Result.SCHEDULER_DIED}

Serves = Callable[[Worker, WorkSpec], bool]


class GroupsSeen:
    """Groups as a client sees them.

    raised: versions that each weight group's target has risen to, in order.
    kept: the worker that each group is kept on. had: members that each worker has been given.
    loose: members of kept groups that may go anywhere, since their group's worker could not take them when it was
        chosen, or when they came.
    """

    def __init__(self, raised: Mapping[str, Sequence[str]], serves: Serves) -> None:
        self._raised = raised
        self._serves = serves
        self._newest: dict[tuple[str, str], int] = {}
        self.kept: dict[str, Worker] = {}
        self.had: dict[str, Counter[WorkerId]] = defaultdict(Counter)
        self.loose: set[Asker] = set()

    def place(self, worker: Worker) -> int:
        """How new a worker's weights are within its weight group."""
        if worker.weight_group is None:
            return 0
        order = ["0", *self._raised.get(worker.weight_group, [])]
        return max((at for at, version in enumerate(order) if version == worker.weight_version), default=0)

    def is_new_enough(self, worker: Worker, spec: WorkSpec) -> bool:
        """No member of its group was given newer weights of this kind."""
        name = worker.weight_group
        return not spec.group or name is None or self.place(worker) >= self._newest.get((spec.group, name), 0)

    def tied_to(self, asker: Asker) -> Worker | None:
        """The one worker that a member waits for; None if it may go anywhere."""
        spec = asker.spec
        if not is_kept(spec) or asker in self.loose:
            return None
        return self.kept.get(spec.group)

    def look(self, askers: Iterable[Asker], takes_work: Callable[[Worker], bool]) -> None:
        """Something has happened to workers."""
        self.kept = {name: worker for name, worker in self.kept.items() if takes_work(worker)}
        for asker in askers:
            self.look_at(asker)

    def look_at(self, asker: Asker) -> None:
        if is_kept(asker.spec):
            worker = self.kept.get(asker.spec.group)
            if worker is None or not self._serves(worker, asker.spec):
                self.loose.add(asker)

    def comes(self, spec: WorkSpec) -> None:
        """Work is about to be asked for."""
        worker = self.kept.get(spec.group)
        if worker is not None and worker.worker_id in spec.avoid:
            del self.kept[spec.group]

    def granted(self, asker: Asker, waiting: Iterable[Asker], *, follows: bool) -> None:
        """follows: whether the worker that its group was kept on makes such things at all."""
        assert asker.lease is not None
        spec, worker = asker.spec, asker.lease.worker
        self.had[spec.group][worker.worker_id] += 1
        if worker.weight_group is not None:
            key = (spec.group, worker.weight_group)
            self._newest[key] = max(self._newest.get(key, 0), self.place(worker))
        if is_kept(spec) and self.kept.get(spec.group) is not worker and follows:
            self.kept[spec.group] = worker
            for other in waiting:
                if other.spec.group == spec.group:
                    self.loose.discard(other)
        for other in waiting:
            self.look_at(other)

    def ended(self, asker: Asker, result: Result) -> None:
        assert asker.lease is not None
        if result in FAILED and self.kept.get(asker.spec.group) is asker.lease.worker:
            del self.kept[asker.spec.group]


def is_kept(spec: WorkSpec) -> bool:
    return bool(spec.group) and not spec.spread and spec.worker is None and not spec.skips_queue
