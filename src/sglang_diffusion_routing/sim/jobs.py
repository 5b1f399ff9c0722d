"""What a worker remembers of what it made: images, videos and meshes by id."""

import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

REMEMBERED = 10_000  # entries of one kind; a real worker forgets none

Job = dict[str, Any]


class Shelf:
    """Jobs of one kind in order of their creation; the oldest is forgotten when there are too many."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def put(self, job: Job) -> None:
        self._jobs[job["id"]] = job
        if len(self._jobs) > REMEMBERED:
            self._jobs.popitem(last=False)

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def pop(self, job_id: str) -> Job | None:
        return self._jobs.pop(job_id, None)

    def page(self, *, after: str | None, limit: int, order: str) -> dict[str, Any]:
        """List jobs as OpenAI's lists are paged; an unknown `after` gives an empty page.

        The order is that of SGLang: by second of creation, and within one second as they came.
        """
        jobs = sorted(self._jobs.values(), key=lambda job: job["created_at"], reverse=order != "asc")
        if after is not None:
            index = next((i for i, job in enumerate(jobs) if job["id"] == after), len(jobs))
            jobs = jobs[index + 1 :]
        page = jobs[:limit]
        return {
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(jobs) > limit,
        }


class OutputFolder:
    """Where files go: a given folder, or a temporary one that `close` removes. Made when first written to."""

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

    def close(self) -> None:
        if self._given is None and self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
