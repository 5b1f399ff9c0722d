"""How workers come by the weights that their group wants: refits of the fleet, and the router's own of one worker."""

from __future__ import annotations

from itertools import islice

from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.health import HealthLimits
from sglang_diffusion_routing.core.outlook import ResyncPlan, outlook, plan
from sglang_diffusion_routing.core.state import COMMANDED, Health, Trigger, WorkerState
from sglang_diffusion_routing.core.transitions import Transitions
from sglang_diffusion_routing.core.weights import BEFORE_ANY_REFIT, Currency, Loaded, OpenRefit, Unversioned
from sglang_diffusion_routing.core.worker import DRAIN_LIMIT_S, Order, Watch, Worker, WorkerId
from sglang_diffusion_routing.errors import Conflict

RESYNC_FIRST_S = 5.0
RESYNC_LAST_S = 300.0
"""Wait after a failed resync, doubled up to the second: a checkpoint may be on a disk that comes back."""


class Mending(Transitions):
    """Workers whose weights are judged, and mended where the router can.

    Args:
        resync: whether a worker that missed refits is sent them again.
        hands_off: whether others load weights into the workers: then none is compared until a refit comes this way.
    """

    def __init__(
        self,
        limits: HealthLimits | None = None,
        drain_limit_s: float = DRAIN_LIMIT_S,
        *,
        resync: bool = True,
        hands_off: bool = False,
    ) -> None:
        super().__init__(limits, drain_limit_s)
        self._resync = resync
        self._hands_off = hands_off
        # By incarnation, and by weight group.
        self._holds: dict[int, str] = {}
        self._holders: dict[str, dict[int, Worker]] = {}
        self._questioned: dict[str, tuple[int, float]] = {}

    # Readings.

    def resync_plan(self, worker: Worker) -> ResyncPlan:
        """Say how a worker is brought to its group's target."""
        return plan(self.ledger, worker, self._peer(worker), resync=self._resync)

    # The fleet's refits.

    def _open(self, event: ev.RefitOpened) -> None:
        refit = OpenRefit(event.refit_id, event.version, event.mode, event.step, event.admit_new, event.dormant)
        self.ledger.begin(event.groups, refit)
        self._judge_groups(event.groups)

    def _close(self, event: ev.RefitClosed) -> None:
        ended = self.ledger.end(event.refit_id)
        for name in ended:
            workers = (worker for worker in self._workers.values() if worker.weight_group in {name, None})
            if all(worker.loaded is Unversioned.BASE for worker in workers):
                self.ledger.clear(name)
        self._judge_groups(ended)

    def _judge_groups(self, groups: frozenset[str] | set[str]) -> None:
        for worker in self._workers.values():
            if worker.weight_group in groups or worker.weight_group is None:
                self._renew(worker)
                self._judge(worker)

    def _load(self, worker: Worker, loaded: Loaded, refit_id: str | None) -> None:
        """Note what a refit has brought a worker; the first of its group to have it makes the others stale."""
        worker.loaded = loaded
        worker.lora_only = False
        self._renew(worker)
        group = worker.weight_group
        if isinstance(loaded, str) and group is not None and self.ledger.succeeded(group, loaded, refit_id):
            for other in self._workers.values():
                if other is not worker and other.weight_group == group and other.loaded == loaded:
                    # It has weights of this name from an earlier refit, and the name may stand for others now.
                    other.loaded = Unversioned.SUSPECT
                self._renew(other)
                self._judge(other)
        self._judge(worker)

    def _report(self, event: ev.WeightsReported, worker: Worker) -> None:
        """Take the trainer's word for what a worker has.

        Raises:
            Conflict: it is being refit, or nobody knows its group; nothing was changed.
        """
        if worker.state is WorkerState.UPDATING or worker.weight_group is None:
            doing = "is being refit" if worker.weight_group is not None else "has not said yet what it serves"
            raise Conflict(f"{worker.worker_id} {doing}", worker=worker.worker_id, state=worker.state.value)
        worker.updates += 1
        self._load(worker, event.version, event.refit_id)
        if event.version == BEFORE_ANY_REFIT and self.ledger.group(worker.weight_group).target is None:
            worker.loaded = Unversioned.BASE
            self._judge(worker)

    # One worker's.

    def _mend(self, now_s: float) -> None:
        """Begin what can be done for the workers that the event has touched."""
        for worker in self.changed:
            if self._may_resync(worker, now_s):
                self._begin_resync(worker, now_s)

    def _mend_later(self, now_s: float) -> None:
        """Begin what is due by now."""
        for worker in self._workers.values():
            if worker.currency is not Currency.CURRENT and self._may_resync(worker, now_s):
                self._begin_resync(worker, now_s)

    def _ask_around(self, now_s: float) -> None:
        """Have found out what nobody knows of the groups' targets, now and then until it is known."""
        for name in self.ledger.groups:
            questions = self._questions(name)
            if not questions:
                self._questioned.pop(name, None)
                continue
            times, due_s = self._questioned.get(name, (0, now_s))
            if due_s <= now_s:
                self._commands += questions
                self._questioned[name] = (times + 1, now_s + _wait_s(times))

    def _questions(self, name: str) -> list[do.Command]:
        """Say who must be asked so that the next run of the router can tell, or this one, which weights these are.

        Whoever has a target whose checksums are not known; and of a remembered target those that cannot be drained
        for it, for they may be the only ones that have it.
        """
        group = self.ledger.group(name)
        if group.target is None or not self.ledger.mends(name):
            return []
        known = self.ledger.expected(name, group.target) is not None
        if known and group.unproven:
            workers = (worker for worker in self._workers.values() if worker.weight_group == name)
            return [do.CheckWeights(one.worker_id, one.incarnation) for one in workers if _can_only_say(one)]
        if not known and not group.unproven:
            can_say = filter(_can_say, self._holders.get(name, {}).values())
            return [do.LearnChecksums(one.worker_id, one.incarnation) for one in islice(can_say, 1)]
        return []

    def _note_holders(self) -> None:
        """Write down which groups have lost their last worker with the target, and which have one again."""
        moved: set[str] = set()
        for worker in self._changed.values():
            held, holds = self._holds.pop(worker.incarnation, None), self._held_by(worker)
            if held is not None:
                del self._holders[held][worker.incarnation]
                moved.add(held)
            if holds is not None:
                self._holds[worker.incarnation] = holds
                self._holders.setdefault(holds, {})[worker.incarnation] = worker
                moved.add(holds)
        for name in moved:
            self.ledger.note_held(name, held=bool(self._holders[name]))

    def _held_by(self, worker: Worker) -> str | None:
        """Name the group whose target a worker has, as far as one knows; one that is being updated may lose it."""
        name = worker.weight_group
        if name is None or worker.state in {WorkerState.UPDATING, WorkerState.REMOVED}:
            return None
        target = self.ledger.group(name).target
        return name if target is not None and worker.loaded == target else None

    def _may_resync(self, worker: Worker, now_s: float) -> bool:
        return (
            worker.state is WorkerState.ACTIVE
            and worker.health is Health.HEALTHY
            and worker.watch is Watch.STANDS
            and worker.currency is not Currency.CURRENT
            and not worker.sleep_first
            and worker.weight_group is not None
            and worker.resync_due_s <= now_s
            and outlook(self.ledger, worker, resync=self._resync).can_resync
        )

    def _begin_resync(self, worker: Worker, now_s: float) -> None:
        group = self.ledger.group(worker.weight_group or "")
        if group.target is None and worker.loaded is Unversioned.UNCHECKED and not self._comparable(worker):
            # Nobody is there that it could differ from; but a refit may have reached it before the router's restart.
            worker.loaded = Unversioned.SUSPECT if worker.restored and group.tainted else Unversioned.BASE
            self._judge(worker)
            return
        order = Order(
            Trigger.REFIT,
            version=group.target,
            drain_limit_s=self._drain_limit_s,
            resync=True,
            sequence=group.sequence,
            unproven=group.unproven,
        )
        self._ask(worker, order, now_s)

    def _comparable(self, worker: Worker) -> bool:
        """Tell whether a worker is to be compared, and there is anything that has what it started with."""
        if self._hands_off:
            return False
        known = self.ledger.expected(worker.weight_group or "", Unversioned.BASE) is not None
        return known or self._peer(worker) is not None

    def _peer(self, worker: Worker) -> WorkerId | None:
        """Find a worker of the same group that has what it started with, and can be asked."""
        for other in self._workers.values():
            if (
                other is not worker
                and other.weight_group == worker.weight_group
                and other.loaded is Unversioned.BASE
                and other.health is Health.HEALTHY
                and other.state is not WorkerState.UPDATING
            ):
                return other.worker_id
        return None

    def _resynced(self, worker: Worker, order: Order) -> None:
        """Take in that a worker has what its group wanted when the resync began."""
        name = worker.weight_group
        if name is None or self.ledger.group(name).sequence != order.sequence:
            # The target has moved on meanwhile: what it has must be looked at anew.
            worker.loaded = Unversioned.UNCHECKED
        elif order.version is None:
            worker.loaded = Unversioned.BASE
        else:
            self._has_target(worker)
        self._renew(worker)
        self._judge(worker)

    def _has_target(self, worker: Worker) -> None:
        """Take in that a worker has its group's target, and with it the others' proof of a remembered one."""
        name = worker.weight_group or ""
        worker.loaded = self.ledger.group(name).wanted
        if self.ledger.prove(name):
            self._judge_groups({name})
        self._judge(worker)

    def _not_brought(self, worker: Worker, order: Order, why: str, now_s: float) -> None:
        """Take in that a resync left a worker as it was."""
        if order.unproven and not self.ledger.group(worker.weight_group or "").unproven:
            # It could only be looked at; meanwhile another one has proven the target.
            self._renew(worker)
            self._judge(worker)
        else:
            self._put_off(worker, why, now_s)

    def _put_off(self, worker: Worker, why: str, now_s: float) -> None:
        """Wait before the next resync of a worker."""
        worker.resync_due_s = now_s + _wait_s(worker.resync_failures)
        worker.resync_failures += 1
        worker.resync_error = why
        self._judge(worker)

    def _renew(self, worker: Worker) -> None:
        """Forget failed resyncs: there is something new to try."""
        worker.resync_failures = 0
        worker.resync_due_s = 0.0
        worker.resync_error = ""

    def _check_after_cut(self, worker: Worker) -> None:
        """Have a worker looked at whose silent connection was cut while others to it stood, and stands again."""
        group = worker.weight_group
        if self._hands_off and worker.loaded is Unversioned.BASE:
            return  # who knows what it has loaded since, without the router
        if group is not None and self.ledger.expected(group, worker.loaded) is not None:
            self._commands.append(do.CheckWeights(worker.worker_id, worker.incarnation))

    def _keep_checksums(self, event: ev.ChecksumsRead) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None or worker.updates != event.updates or worker.loaded != event.loaded:
            return
        self.ledger.note_checksums(event.group, event.loaded, event.checksums)

    def _judge(self, worker: Worker) -> None:
        """Compare what a worker has loaded with what its group wants."""
        worker.currency = self.ledger.currency(worker.weight_group, worker.loaded)
        seen = outlook(self.ledger, worker, resync=self._resync)
        worker.mends, worker.weights_reason = seen.mends, seen.reason
        self._touch(worker)


def _wait_s(failures: int) -> float:
    """Give the wait before the next attempt."""
    return min(RESYNC_FIRST_S * float(2 ** min(failures, 16)), RESYNC_LAST_S)


def _can_say(worker: Worker) -> bool:
    """Tell whether a worker can be asked for what it has, and goes on having it, as far as one knows."""
    return worker.health is Health.HEALTHY and worker.state not in COMMANDED


def _can_only_say(worker: Worker) -> bool:
    """Tell whether a remembered worker can be asked for what it has, and cannot be drained for more than that."""
    serves = worker.state is WorkerState.ACTIVE and worker.health is Health.HEALTHY
    asked = worker.watch is Watch.STANDS and worker.state not in COMMANDED and not worker.sleep_first
    return asked and not serves and worker.loaded is Unversioned.UNCHECKED
