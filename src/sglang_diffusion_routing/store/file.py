"""The rows of a state file: everything is read at the start, and each batch is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from sglang_diffusion_routing.core.refit import Recipe
from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.errors import StateCorrupt
from sglang_diffusion_routing.store import documents
from sglang_diffusion_routing.store.batch import REFITS_KEPT, Batch
from sglang_diffusion_routing.store.opening import connect, faults_of, transaction
from sglang_diffusion_routing.store.saved import Saved, SavedJob

_TABLES = ("worker", "weight_group", "raised", "refit", "job")

_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
"""What a reader of documents raises for what it cannot read."""


def _key(text: str) -> bytes:
    """Write a name that came from outside: SQLite's text holds neither half a surrogate pair nor a zero."""
    return text.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


class StateFile:
    """An open state file. One thread at a time may use it.

    Attributes:
        was_clean: whether the run before this one ended in order, or there was none.
        last_registration: the highest that the file knows.
    """

    def __init__(self, path: Path, job_cap: int, now_unix_s: float) -> None:
        """Open the file, or make it; what it holds is left as it is, but for jobs that nobody needs any more.

        Raises:
            StateUnusable: with its kinds; the file was left as it is.
        """
        self._path = path
        self._job_cap = job_cap
        self._jobs_since_trim = 0
        # What the file has of each group: the sequence up to which its history is there, and its recipe.
        self._written: dict[str, tuple[int, Recipe]] = {}
        self._began = False
        with faults_of(path):
            self._connection = connect(path)
            try:
                # A disk that takes nothing is to be known now.
                self._connection.execute("UPDATE run SET clean = clean")
                self._connection.execute("DELETE FROM job WHERE expires_unix_s <= ?", (now_unix_s,))
                self._trim_jobs()
                self.was_clean = bool(self._one("SELECT clean FROM run"))
                # Jobs count as well: a worker that is gone must not lend its number to another one.
                self.last_registration = max(
                    self._one("SELECT ifnull(max(registration), 0) FROM worker"),
                    self._one("SELECT ifnull(max(registration), 0) FROM job"),
                )
            except BaseException:
                self._connection.close()
                raise

    def load(self) -> Saved:
        """Read everything.

        Raises:
            StateUnusable: with its kinds; a row that no router has written is damage too.
        """
        with faults_of(self._path):
            try:
                return self._load()
            except _MALFORMED as error:
                raise StateCorrupt(str(self._path), f"is damaged (a row cannot be read: {error!r})") from None

    def _load(self) -> Saved:
        groups = self._load_groups()
        self._written = {name: (group.sequence, group.recipe) for name, group in groups.items()}
        rows = self._connection.execute
        return Saved(
            workers=tuple(
                documents.read_worker(registration, text)
                for registration, text in rows("SELECT registration, document FROM worker ORDER BY registration")
            ),
            groups=groups,
            refits=tuple(
                documents.read_refit(_text(refit_id), text)
                for refit_id, text in rows("SELECT refit_id, document FROM refit ORDER BY place")
            ),
            jobs=tuple(
                SavedJob(_text(kind), _text(job_id), _text(url), registration, expires_unix_s, bool(running))
                for kind, job_id, url, registration, expires_unix_s, running in rows(
                    "SELECT kind, job_id, worker_url, registration, expires_unix_s, running FROM job"
                    " ORDER BY expires_unix_s"
                )
            ),
        )

    def _load_groups(self) -> dict[str, Group]:
        rows = list(self._connection.execute("SELECT name, document, recipe FROM weight_group ORDER BY rowid"))
        history: dict[bytes, dict[str, int]] = {name: {} for name, _, _ in rows}
        for name, version, sequence in self._connection.execute(
            "SELECT name, version, sequence FROM raised ORDER BY name, sequence"
        ):
            history[name][_text(version)] = sequence
        return {
            _text(name): documents.read_group(text, documents.read_recipe(recipe), history[name])
            for name, text, recipe in rows
        }

    def write(self, batch: Batch, *, keep: bool) -> None:
        """Write a batch, all of it or nothing; the first one also marks the run as under way.

        Args:
            keep: whether what earlier runs have left stays; asked for by the first batch only.

        Raises:
            sqlite3.Error: nothing was written.
        """
        with transaction(self._connection):
            if not self._began:
                if not keep:
                    for table in _TABLES:
                        self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
                    self._written.clear()
                self._connection.execute("UPDATE run SET clean = 0")
            self._write_workers(batch)
            for name, group in batch.groups.items():
                self._write_group(name, group)
            self._write_refits(batch)
            self._write_jobs(batch)
        self._began = True
        for name, group in batch.groups.items():
            self._written[name] = (group.sequence, group.recipe)
        self._jobs_since_trim += len(batch.jobs)
        if self._jobs_since_trim > self._job_cap // 8:
            self._trim_jobs()

    def close(self, *, clean: bool = False) -> None:
        """Close, after noting whether the run ended in order.

        Raises:
            sqlite3.Error: that could not be noted; it is closed nonetheless.
        """
        try:
            if clean and self._began:
                self._connection.execute("UPDATE run SET clean = 1")
        finally:
            self._connection.close()

    def _write_workers(self, batch: Batch) -> None:
        self._connection.executemany(
            "DELETE FROM worker WHERE registration = ?",
            [(registration,) for registration, worker in batch.workers.items() if worker is None],
        )
        self._connection.executemany(
            "INSERT INTO worker VALUES (?, ?) ON CONFLICT DO UPDATE SET document = excluded.document",
            [
                (registration, documents.write_worker(worker))
                for registration, worker in batch.workers.items()
                if worker is not None
            ],
        )

    def _write_group(self, name: str, group: Group) -> None:
        """Write what of a group has changed: its history and its recipe may be long."""
        execute, key = self._connection.execute, _key(name)
        sequence, recipe = self._written.get(name, (-1, None))
        if recipe is group.recipe:
            execute("UPDATE weight_group SET document = ? WHERE name = ?", (documents.write_group(group), key))
        else:
            execute(
                "INSERT INTO weight_group VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET document = excluded.document, recipe = excluded.recipe",
                (key, documents.write_group(group), documents.write_recipe(group.recipe)),
            )
        for version, raised in reversed(group.raised.items()):
            if raised <= sequence:
                break
            execute(
                "INSERT INTO raised VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET sequence = excluded.sequence",
                (key, _key(version), raised),
            )
        oldest = next(iter(group.raised.values()), 0)
        execute("DELETE FROM raised WHERE name = ? AND sequence < ?", (key, oldest))

    def _write_refits(self, batch: Batch) -> None:
        if not batch.refits:
            return
        self._connection.executemany(
            "INSERT INTO refit (refit_id, document) VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET document = excluded.document",
            [(_key(refit_id), documents.write_refit(refit)) for refit_id, refit in batch.refits.items()],
        )
        self._connection.execute("DELETE FROM refit WHERE place <= (SELECT max(place) FROM refit) - ?", (REFITS_KEPT,))

    def _write_jobs(self, batch: Batch) -> None:
        self._connection.executemany(
            "DELETE FROM job WHERE kind = ? AND job_id = ?",
            [(_key(kind), _key(job_id)) for (kind, job_id), job in batch.jobs.items() if job is None],
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO job VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    _key(job.kind),
                    _key(job.job_id),
                    _key(job.worker_url),
                    job.registration,
                    job.expires_unix_s,
                    job.running,
                )
                for job in batch.jobs.values()
                if job is not None
            ],
        )

    def _trim_jobs(self) -> None:
        """Forget the oldest jobs above the cap; between two times the file grows by an eighth at most."""
        self._connection.execute(
            "DELETE FROM job WHERE (kind, job_id) IN"
            " (SELECT kind, job_id FROM job ORDER BY expires_unix_s DESC LIMIT -1 OFFSET ?)",
            (self._job_cap,),
        )
        self._jobs_since_trim = 0

    def _one(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])
