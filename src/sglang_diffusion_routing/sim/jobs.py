"""What a worker remembers of what it made: images, videos and meshes by id, and their files."""

import contextlib
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sglang_diffusion_routing.sim.engine import SchedulerDead

T = TypeVar("T")

REMEMBERED = 10_000  # entries of one kind; a real worker forgets none


@dataclass(frozen=True, slots=True)
class Made(Generic[T]):
    """What a generation made.

    weights: checksum of the transformer that it ran on, read when it ran. seconds: how long it ran.
    """

    value: T
    weights: str
    seconds: float


@dataclass(slots=True)
class Job:
    """One thing made or in the making.

    shown: the fields that clients see. files: on disk once it is completed. weights: what it ran on, empty before that.
    """

    shown: dict[str, Any]
    files: list[Path]
    weights: str = ""

    def progress(self, share: float) -> None:
        """Note the share of steps done: in progress, and 99 at most before the end."""
        if self.shown["status"] in {"queued", "in_progress"}:  # a deleted job stays so while its work goes on
            self.shown |= {"status": "in_progress", "progress": max(self.shown["progress"], min(int(100 * share), 99))}

    def settle(self, ended: "Future[Made[T]]", facts: Callable[[Made[T]], dict[str, Any]]) -> None:
        """Note the end, as SGLang's `_dispatch_job_async` does; called on the engine's thread.

        Args:
            facts: what a completed job shows beside its status, time and progress.
        """
        error = ended.exception()
        if error is not None:
            prefix = "" if isinstance(error, SchedulerDead) else "Model generation failed. Error from scheduler: "
            self.shown |= {"status": "failed", "error": {"message": f"{prefix}{error}"}, "file_path": None}
            return
        made = ended.result()
        self.weights = made.weights
        self.shown |= facts(made)
        self.shown |= {"progress": 100, "completed_at": int(time.time()), "inference_time_s": made.seconds}
        self.shown["status"] = "completed"


class Shelf:
    """Jobs of one kind by id; the oldest is forgotten, with its files, when there are too many."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._remembered = remembered

    def put(self, job: Job) -> None:
        self._jobs[job.shown["id"]] = job
        if len(self._jobs) > self._remembered:
            _, oldest = self._jobs.popitem(last=False)
            for path in oldest.files:
                with contextlib.suppress(OSError):
                    path.unlink()

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def pop(self, job_id: str) -> Job | None:
        return self._jobs.pop(job_id, None)

    def page(self, *, after: str | None, limit: int, order: str) -> dict[str, Any]:
        """List jobs as SGLang's stores do: by second of creation; an unknown `after` gives an empty page."""
        jobs = sorted((job.shown for job in self._jobs.values()), key=_created_at, reverse=order != "asc")
        if after is not None:
            index = next((i for i, job in enumerate(jobs) if job["id"] == after), len(jobs))
            jobs = jobs[index + 1 :]
        page = jobs[:limit]
        return {
            "data": page,
            "object": "list",
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(jobs) > limit,
        }


def _created_at(job: dict[str, Any]) -> int:
    created: int = job["created_at"]
    return created


class OutputFolder:
    """Where files go: a given folder, or a temporary one that `close` removes. Made when first asked for."""

    def __init__(self, given: Path | None) -> None:
        self._given = given
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        if self._path is None:
            if self._given is None:
                self._path = Path(tempfile.mkdtemp(prefix="sglang-sim-"))
            else:
                self._given.mkdir(parents=True, exist_ok=True)
                self._path = self._given.resolve()
        return self._path

    def files(self, stem: str, suffix: str, count: int) -> list[Path]:
        """Name the files of one job: the stem alone for a single one, numbered from 0 otherwise."""
        if count == 1:
            return [self.path / f"{stem}.{suffix}"]
        return [self.path / f"{stem}_{index}.{suffix}" for index in range(count)]

    def close(self) -> None:
        """Remove the folder if it is a temporary one."""
        if self._given is None and self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
