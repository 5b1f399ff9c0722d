"""Show the ledger of weights, and write into it what the trainer did behind the router's back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

import structlog

from sglang_diffusion_routing.control.broadcast import sort_out
from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.rows import reply, skipped
from sglang_diffusion_routing.control.turns import Turns
from sglang_diffusion_routing.core.events import RefitClosed, RefitOpened, WeightsReported
from sglang_diffusion_routing.core.refit import Mode, StepKind, step_of
from sglang_diffusion_routing.core.weights import Group, Unversioned, shown_version
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import Conflict, NoEligibleWorker, UnknownWorker
from sglang_diffusion_routing.schemas import (
    FanOutReply,
    FanOutRow,
    GroupRefit,
    GroupWeights,
    SkippedRow,
    TargetRaised,
    WeightsReply,
    WorkerWeights,
)

_log = structlog.get_logger(__name__)

HISTORY_SHOWN = 100

_NO_GROUP = "it has not said yet what it serves, so its weight group is not known"


class Weights:
    """The ledger as clients see it."""

    def __init__(self, fleet: Fleet, baselines: Baselines, turns: Turns) -> None:
        self._fleet = fleet
        self._baselines = baselines
        self._turns = turns
        self._reports = count(1)

    def show(self) -> WeightsReply:
        """Give every group that a refit has reached or a worker is in."""
        ledger, by_group = self._fleet.pool.ledger, dict[str | None, list[WorkerWeights]]()
        for worker in self._fleet.pool.workers.values():
            by_group.setdefault(worker.weight_group, []).append(_of_worker(worker))
        ungrouped = by_group.pop(None, [])
        names = {*ledger.groups, *(name for name in by_group if name is not None)}
        groups = {name: _of_group(ledger.group(name), by_group.get(name, [])) for name in sorted(names)}
        return WeightsReply(groups=groups, ungrouped=ungrouped)

    async def report(self, workers: Sequence[Worker] | None, version: str) -> FanOutReply:
        """Take the trainer's word that workers have loaded `version`, "0" for what their processes started with.

        Like a refit it waits until the one under way in their groups is over; unlike most it cannot be sent again.

        Args:
            workers: those that have it; None for all that may be given weights at all.

        Raises:
            NoEligibleWorker: there is none; nothing was changed.
            TooManyRefits: too many wait for their turn.
        """
        named, skips = (workers, []) if workers is not None else sort_out([*self._fleet.pool.workers.values()])
        grouped = [worker for worker in named if worker.weight_group is not None]
        skips += [skipped(worker, _NO_GROUP) for worker in named if worker.weight_group is None]
        if not grouped:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        groups = frozenset(worker.weight_group or "" for worker in grouped)
        async with self._turns.of(groups):
            taken = self._take_down(grouped, groups, version, skips)
        if not taken:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        for worker in taken:
            self._baselines.take_new(worker, worker.weight_group or "", worker.loaded)
        rows = [FanOutRow(worker_url=one.worker_id, status_code=200, body={"success": True}) for one in taken]
        return reply(rows, skips, version=version)

    def _take_down(
        self, workers: Sequence[Worker], groups: frozenset[str], version: str, skips: list[SkippedRow]
    ) -> list[Worker]:
        """Have the pool believe it of those workers that it may be true of, all in one go."""
        report_id = f"report-{next(self._reports)}"
        taken: list[Worker] = []
        step = step_of(StepKind.REPORTED, version, "")
        self._fleet.apply(RefitOpened(groups, report_id, version, Mode.IMMEDIATE, step))
        try:
            for worker in workers:
                try:
                    self._fleet.apply(WeightsReported(worker.worker_id, report_id, version))
                except (Conflict, UnknownWorker) as error:
                    skips.append(skipped(worker, error.message))
                else:
                    taken.append(worker)
        finally:
            self._fleet.apply(RefitClosed(report_id))
        _log.info("weights_reported", weights=version, workers=len(taken), skipped=len(skips))
        return taken


def _of_group(group: Group, workers: list[WorkerWeights]) -> GroupWeights:
    obstacle = group.recipe.obstacle if group.target is not None else None
    newest = islice(reversed(group.raised.items()), HISTORY_SHOWN)
    checksums = group.checksums.get(Unversioned.BASE if group.target is None else group.target)
    return GroupWeights(
        target=group.target,
        sequence=group.sequence,
        previous=None if group.previous is None else shown_version(group.previous),
        unproven=group.unproven,
        open=None
        if group.open is None
        else GroupRefit(
            id=group.open.refit_id,
            weight_version=group.open.version,
            mode=group.open.mode.value,
            admit_new=group.open.admit_new,
        ),
        replayable=group.target is not None and obstacle is None,
        obstacle=obstacle,
        checksums=None if checksums is None else dict(checksums),
        history=[TargetRaised(weight_version=version, sequence=sequence) for version, sequence in newest],
        workers=workers,
    )


def _of_worker(worker: Worker) -> WorkerWeights:
    return WorkerWeights(
        worker_url=worker.worker_id,
        weight_version=worker.weight_version,
        status=worker.status.value,
        reason=worker.weights_reason,
    )
