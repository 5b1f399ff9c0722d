"""How workers move through their states: orders and facts against the table."""

from __future__ import annotations

from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import health
from sglang_diffusion_routing.core.commands import Outcome
from sglang_diffusion_routing.core.health import HealthLimits
from sglang_diffusion_routing.core.orders import UNDOES, Precedence, joined, precedence
from sglang_diffusion_routing.core.roster import Roster
from sglang_diffusion_routing.core.state import COMMANDED, TABLE, Effect, Fate, Move, Trigger, WorkerState
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.core.worker import DRAIN_LIMIT_S, Order, RequestId, Watch, Worker, WorkerId
from sglang_diffusion_routing.errors import Conflict

LEFT_MAX = 4096
"""Workers removed with other weights than they started with that are remembered until they are registered again."""

_OUTCOME_OF = {
    Fate.DONE: Outcome.DONE,
    Fate.REFUSED: Outcome.REFUSED,
    Fate.LOST: Outcome.LOST,
    Fate.EXPIRED: Outcome.EXPIRED,
}


class Transitions(Roster):
    """A roster whose workers can be moved."""

    def __init__(self, limits: HealthLimits | None = None, drain_limit_s: float = DRAIN_LIMIT_S) -> None:
        super().__init__(limits, drain_limit_s)
        self._command_ids = 0
        self._left_with: dict[WorkerId, Unversioned] = {}

    def _order(self, trigger: Trigger, request: RequestId | None, drain_limit_s: float | None) -> Order:
        return Order(
            trigger,
            () if request is None else (request,),
            drain_limit_s=self._drain_limit_s if drain_limit_s is None else drain_limit_s,
        )

    def _ask(self, worker: Worker, order: Order, now_s: float) -> None:
        """Carry out an order, add it to the one under way, or let it wait behind a command.

        Raises:
            Conflict: none of these is possible; nothing was changed.
        """
        if worker.state is WorkerState.DRAINING and worker.order is not None and worker.order.resync:
            self._withdraw(worker, now_s)
        move = self._row(worker, order.trigger)
        if move.fate is Fate.JOINED:
            self._join(worker, order)
        elif move.fate is Fate.WAITS:
            self._wait(worker, order)
        else:
            self._supersede(worker, move, order)
            self._move(worker, move, now_s)
            if move.fate is Fate.BEGUN:
                self._begin_order(worker, order, now_s)
            else:
                self._answer(worker, order, Outcome.DONE)
            self._perform(worker, move, now_s)

    def _withdraw(self, worker: Worker, now_s: float) -> None:
        """Give up a resync that still drains: whatever is asked for comes first, and it is begun anew later."""
        self._move(worker, Move(WorkerState.ACTIVE, Fate.DONE), now_s)
        worker.order = None

    def _happen(self, worker: Worker, trigger: Trigger, now_s: float, reason: str = "") -> None:
        """Move a worker by what has happened to it, and then let in the order that waited.

        Raises:
            Conflict: it cannot have happened in this state; nothing was changed.
        """
        move = self._row(worker, trigger)
        ended_command = worker.state in COMMANDED and move.state is not worker.state
        self._move(worker, move, now_s)
        if move.fate is not Fate.KEPT:
            self._settle(worker, _OUTCOME_OF[move.fate], reason)
        self._perform(worker, move, now_s)
        if ended_command:
            self._let_in(worker, now_s)

    def _row(self, worker: Worker, trigger: Trigger) -> Move:
        move = TABLE[worker.state, worker.intent].get(trigger)
        if move is None:
            raise _conflict(worker, trigger)
        return move

    def _move(self, worker: Worker, move: Move, now_s: float) -> None:
        if move.state is WorkerState.REMOVED:
            self._note_leaving(worker)
        if move.state is not worker.state:
            worker.since_s = now_s
            worker.command_id = None
        worker.state = move.state
        worker.intent = move.intent
        if move.state is not WorkerState.DRAINING or move.fate is Fate.DONE:
            worker.drain_deadline_s = None
        if move.state in {WorkerState.RELEASING, WorkerState.RESUMING}:
            worker.sleep_first = False
        self._touch(worker)

    def _note_leaving(self, worker: Worker) -> None:
        """Remember what a worker leaves with: registered again, it may be the same process."""
        if worker.state is not WorkerState.UPDATING and worker.loaded is Unversioned.BASE:
            return
        unsure = (
            worker.loaded in (Unversioned.UNCHECKED, Unversioned.OTHER) and worker.state is not WorkerState.UPDATING
        )
        # A refit that it is removed from may have reached it, or may yet.
        self._left_with[worker.worker_id] = Unversioned.UNCHECKED if unsure else Unversioned.SUSPECT
        if len(self._left_with) > LEFT_MAX:
            del self._left_with[next(iter(self._left_with))]

    def _begin_order(self, worker: Worker, order: Order, now_s: float) -> None:
        worker.order = order
        if worker.state is WorkerState.DRAINING:
            worker.drain_deadline_s = now_s + order.drain_limit_s

    def _perform(self, worker: Worker, move: Move, now_s: float) -> None:
        for effect in move.effects:
            match effect:
                case Effect.ANNOUNCE_DRAIN:
                    self._commands.append(do.AnnounceDrain(worker.worker_id))
                case Effect.UPDATE_WEIGHTS | Effect.RELEASE_MEMORY | Effect.RESUME_MEMORY:
                    self._command(worker, effect)
                case Effect.CANCEL_LEASES:
                    self._commands.append(do.CancelLeases(worker.worker_id, "it was removed"))
                case Effect.QUARANTINE:
                    wait_s = self._limits.backoff_first_s
                    worker.vitals = health.quarantined(worker.vitals, now_s, wait_s, self._limits)
                case Effect.RECOVER:
                    worker.vitals = health.succeeded(worker.vitals, now_s, self._limits)
                    self._watch(worker)
        if worker.state is WorkerState.REMOVED:
            del self._workers[worker.worker_id]
            self._commands.append(do.ForgetWorker(worker.worker_id, worker.incarnation, worker.url))
        self._touch(worker)

    def _watch(self, worker: Worker) -> None:
        """Have the silent connection to a worker that has answered opened, unless it is there."""
        if worker.watch is Watch.NONE:
            worker.watch = Watch.OPENING
            self._commands.append(do.OpenSentinel(worker.worker_id, worker.incarnation))

    def _command(self, worker: Worker, effect: Effect) -> None:
        self._command_ids += 1
        worker.command_id = self._command_ids
        if effect is Effect.RELEASE_MEMORY:
            self._commands.append(do.ReleaseMemory(worker.worker_id, worker.command_id))
        elif effect is Effect.RESUME_MEMORY:
            self._commands.append(do.ResumeMemory(worker.worker_id, worker.command_id))
        elif worker.order is not None:
            self._update(worker, worker.order)

    def _update(self, worker: Worker, order: Order) -> None:
        """Have a worker's weights changed."""
        assert worker.command_id is not None
        worker.updates += 1
        worker.updates_begun = worker.updates
        if order.resync:
            self._commands.append(do.ResyncWeights(worker.worker_id, worker.command_id))
        elif order.refit_id is not None:
            self.ledger.reach(worker.weight_group or "")
            self._commands.append(do.UpdateWeights(worker.worker_id, worker.command_id, order.refit_id))

    def _join(self, worker: Worker, order: Order) -> None:
        """Add an order to the one under way, which asked for the same."""
        present = worker.order
        if present is None:
            self._answer(worker, order, Outcome.DONE)
        elif present.refit_id != order.refit_id or present.resync:
            if worker.state is not WorkerState.UPDATING:
                raise _conflict(worker, order.trigger)
            self._wait(worker, order)
        else:
            worker.order = joined(present, order)
            waiting = worker.next_order
            if waiting is not None and waiting.trigger in UNDOES.get(order.trigger, ()):
                self._answer(worker, waiting, Outcome.SUPERSEDED)
                worker.next_order = None
        self._touch(worker)

    def _wait(self, worker: Worker, order: Order) -> None:
        """Put an order behind the command under way."""
        waiting = worker.next_order
        if waiting is None:
            worker.next_order = order
        else:
            match precedence(waiting, order):
                case Precedence.JOINS:
                    worker.next_order = joined(waiting, order)
                case Precedence.REPLACES:
                    self._answer(worker, waiting, Outcome.SUPERSEDED)
                    worker.next_order = order
                case Precedence.YIELDS:
                    raise _conflict(worker, order.trigger)
        self._touch(worker)

    def _let_in(self, worker: Worker, now_s: float) -> None:
        """Carry out the order that waited behind the command that has ended."""
        waiting, worker.next_order = worker.next_order, None
        if waiting is None:
            return
        try:
            self._ask(worker, waiting, now_s)
        except Conflict as conflict:
            self._answer(worker, waiting, Outcome.CONFLICT, conflict.message)

    def _supersede(self, worker: Worker, move: Move, order: Order) -> None:
        """Answer the orders that a new one pushes aside."""
        if move.state is worker.state and move.fate is Fate.DONE:
            return
        for pushed_aside in (worker.order, worker.next_order):
            if pushed_aside is not None:
                self._answer(worker, pushed_aside, Outcome.SUPERSEDED)
        worker.order = worker.next_order = None

    def _settle(self, worker: Worker, outcome: Outcome, reason: str) -> None:
        order, worker.order = worker.order, None
        if order is not None:
            self._answer(worker, order, outcome, reason)

    def _answer(self, worker: Worker, order: Order, outcome: Outcome, reason: str = "") -> None:
        for request in order.requests:
            self._commands.append(do.AnswerRequest(request, worker.worker_id, outcome, reason))


def _conflict(worker: Worker, trigger: Trigger) -> Conflict:
    doing = worker.state.value if worker.intent is None else f"draining ({worker.intent.name.lower()})"
    return Conflict(
        f"{worker.worker_id} is {doing}, which does not go with {trigger.value}",
        worker=worker.worker_id,
        state=worker.state.value,
        asked=trigger.value,
    )
