"""Remember the last refits: what each asked for, how far every worker is, what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, Protocol

from pydantic import ValidationError

from sglang_diffusion_routing.control.plan import Plan
from sglang_diffusion_routing.core.refit import Mode
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import UnknownRefit
from sglang_diffusion_routing.schemas import RefitRow, RefitView
from sglang_diffusion_routing.store import SavedRefit

REFITS_MAX = 256
"""Refits remembered; a trainer that refits every minute can look back four hours."""

Status = Literal["waiting", "open", "succeeded", "partial", "failed", "interrupted"]
RowStatus = Literal[
    "waiting", "draining", "updating", "updated", "refused", "lost", "expired", "superseded", "conflict", "skipped"
]


class Shelf(Protocol):
    """Where refits outlive the router."""

    def put_refit(self, refit: SavedRefit) -> None:
        """Take it in; of several of one id the last counts."""

    async def flush(self) -> bool:
        """Wait until all that was put is on disk; False when it is not, or not in time."""


class NoShelf:
    """Keeps nothing."""

    def put_refit(self, refit: SavedRefit) -> None:
        """Let it go."""

    async def flush(self) -> bool:
        """There is nothing to wait for."""
        return True


@dataclass(slots=True, eq=False)
class RefitRecord:
    """One refit as it goes."""

    refit_id: str
    route: str
    mode: Mode
    version: str | None = None
    groups: list[str] = field(default_factory=list)
    status: Status = "waiting"
    reason: str = ""
    started_at: str = ""
    ended_at: str | None = None
    parts: int = 0
    rows: dict[WorkerId, RefitRow] = field(default_factory=dict)

    def note(
        self,
        worker_id: WorkerId,
        status: RowStatus,
        *,
        status_code: int | None = None,
        reason: str = "",
        seconds: float | None = None,
    ) -> None:
        """Say how far a worker is."""
        self.rows[worker_id] = RefitRow(
            worker_url=worker_id,
            status=status,
            status_code=status_code,
            reason=reason,
            seconds=None if seconds is None else round(seconds, 3),
        )

    def begin(self, plan: Plan, workers: Iterable[Worker], *, parts: int) -> None:
        """Say that its turn has come, and whom it is for."""
        self.status, self.version, self.groups, self.parts = "open", plan.version, sorted(plan.groups), parts
        self.rows.clear()
        for worker in workers:
            self.note(worker.worker_id, "waiting")

    def go_on(self) -> None:
        """Say that it is under way again."""
        self.status, self.reason, self.ended_at = "open", "", None

    def wait_on(self, reason: str) -> None:
        """Say what it waits for."""
        self.reason = reason

    def end(self, status: Status, reason: str = "") -> None:
        """Say what became of the whole."""
        self.status, self.reason, self.ended_at = status, reason, _now()

    def view(self) -> RefitView:
        """Show the refit as it is now."""
        return RefitView(
            id=self.refit_id,
            route=self.route,
            mode=self.mode.value,
            weight_version=self.version,
            groups=self.groups,
            status=self.status,
            reason=self.reason,
            started_at=self.started_at,
            ended_at=self.ended_at,
            parts=self.parts,
            workers=list(self.rows.values()),
        )

    def saved(self, plan: Plan) -> SavedRefit:
        """Give what is to outlive the router."""
        return SavedRefit(
            refit_id=self.refit_id,
            document=self.view().model_dump_json(),
            groups=plan.groups,
            version=plan.version,
            mode=plan.pace.mode,
            is_open=self.ended_at is None,
            step=plan.step,
            admit_new=plan.pace.admit_new,
            drain_limit_s=plan.drain_limit_s,
        )

    def closed(self, saved: SavedRefit) -> SavedRefit:
        """Give what is to outlive the router of a refit that an earlier run has left open."""
        return replace(saved, document=self.view().model_dump_json(), is_open=False, step=None)


class RefitLog:
    """The last refits, by id, in the order in which they came."""

    def __init__(self) -> None:
        self._records: dict[str, RefitRecord] = {}

    def enter(self, record: RefitRecord) -> None:
        """Take in a refit that has been asked for; the oldest that is over gives way."""
        record.started_at = record.started_at or _now()
        self._records[record.refit_id] = record
        if len(self._records) > REFITS_MAX:
            over = (refit_id for refit_id, known in self._records.items() if known.ended_at is not None)
            if (oldest := next(over, None)) is not None:
                del self._records[oldest]

    def drop(self, record: RefitRecord) -> None:
        """Forget a refit that came to nothing."""
        del self._records[record.refit_id]

    def get(self, refit_id: str) -> RefitRecord:
        """Give a refit.

        Raises:
            UnknownRefit: it is not remembered.
        """
        try:
            return self._records[refit_id]
        except KeyError:
            raise UnknownRefit(refit_id) from None

    def newest(self, limit: int) -> list[RefitView]:
        """Show the last refits, the newest first."""
        return [record.view() for record in list(self._records.values())[: -limit - 1 : -1]]

    def last_ended(self, groups: Iterable[str]) -> RefitRecord | None:
        """Give the refit of any of these groups that came last and is over."""
        wanted = set(groups)
        backwards = reversed(self._records.values())
        return next((one for one in backwards if one.ended_at is not None and wanted.intersection(one.groups)), None)

    def restore(self, saved: SavedRefit) -> None:
        """Take in a refit of an earlier run; of one whose record cannot be read, what is known otherwise."""
        try:
            view = RefitView.model_validate_json(saved.document)
        except ValidationError:
            route = "" if saved.step is None else saved.step.target.partition("?")[0]
            record = RefitRecord(saved.refit_id, route, saved.mode, saved.version, sorted(saved.groups))
            record.status = "open"
            if not saved.is_open:
                record.end("failed", "its record could not be read")
        else:
            record = _record_of(view)
        self.enter(record)


def _record_of(view: RefitView) -> RefitRecord:
    return RefitRecord(
        refit_id=view.id,
        route=view.route,
        mode=Mode(view.mode),
        version=view.weight_version,
        groups=view.groups,
        status=view.status,
        reason=view.reason,
        started_at=view.started_at,
        ended_at=view.ended_at,
        parts=view.parts,
        rows={WorkerId(row.worker_url): row for row in view.workers},
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
