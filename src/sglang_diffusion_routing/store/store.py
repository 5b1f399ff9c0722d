"""Take in what is to outlive the router, and have one thread write it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog

from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.store.batch import Batch
from sglang_diffusion_routing.store.file import StateFile
from sglang_diffusion_routing.store.lock import Lock
from sglang_diffusion_routing.store.opening import faults_of, make_directory, reason_of
from sglang_diffusion_routing.store.saved import Saved, SavedJob, SavedRefit, SavedWorker

Ending = TypeVar("Ending")

_log = structlog.get_logger(__name__)

GATHER_S = 0.05
"""Owners of jobs that nobody waits for gather this long: 20 commits a second, however many images are made."""

RETRY_S = 2.0
"""A disk that failed is tried again after this."""


class Store:
    """The durable state of one router.

    What is put is gathered into transactions; of several values of one thing the last counts. A disk that fails costs
    durability alone: the newest values are kept, bounded by what there is to keep, until it takes them again.

    Attributes:
        path: the file.
        last_registration: the highest number of a worker that the file knows.
        failures: attempts to write that failed.
    """

    def __init__(self, file: StateFile, lock: Lock, path: Path, job_cap: int, *, keep: bool) -> None:
        self.path = path
        self.last_registration = file.last_registration
        self.failures = 0
        self._file = file
        self._lock = lock
        self._job_cap = job_cap
        self._keep = keep
        self._pending = Batch()
        self._writing = Batch()
        self._stored_workers: set[int] = set()
        self._put = 0
        self._saved = 0
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []
        self._due_s: float | None = None
        self._failing_since_s: float | None = None
        self._closing: asyncio.Future[None] | None = None
        self._clean = False  # as `close` says; read by the thread after it
        # Guards everything above between the loop and the thread; held for some steps of Python, never for the disk.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @classmethod
    def open(cls, path: Path, *, resume: bool, job_cap: int) -> tuple[Store, Saved | None]:
        """Open the file, or make it, and read what is to be restored; what it holds stays until `start`.

        Args:
            resume: restore also what a run that ended in order has left.

        Returns:
            The store, and what to restore: None when there is nothing, or the last run ended in order.

        Raises:
            StateUnusable, StateInUse, StateCorrupt, StateTooNew: the file was left as it is.
        """
        path = path.resolve()
        with faults_of(path):
            make_directory(path)
            lock = Lock.take(path)
        try:
            file = StateFile(path, job_cap, time.time())
        except BaseException:
            lock.release()
            raise
        try:
            saved = file.load() if resume or not file.was_clean else None
        except BaseException:
            file.close()
            lock.release()
            raise
        store = cls(file, lock, path, job_cap, keep=saved is not None)
        if saved is None or saved == Saved():
            return store, None
        store._stored_workers.update(worker.registration for worker in saved.workers)
        return store, saved

    def start(self) -> None:
        """Begin to write: what is not to be restored is dropped, and from here on an end is unclean until `close`."""
        self._put += 1
        self._due_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    # What is to outlive the router.

    def put_worker(self, worker: SavedWorker) -> None:
        with self._changed:
            self._pending.workers[worker.registration] = worker
            self._noted(0.0)

    def drop_worker(self, registration: int) -> None:
        with self._changed:
            if registration in self._stored_workers or registration in self._writing.workers:
                self._pending.workers[registration] = None
            else:
                self._pending.workers.pop(registration, None)
            self._noted(0.0)

    def put_group(self, name: str, group: Group) -> None:
        """Keep a weight group as it is now; the record itself goes on changing."""
        snapshot = replace(group, raised=dict(group.raised), checksums=dict(group.checksums))
        with self._changed:
            self._pending.groups[name] = snapshot
            self._noted(0.0)

    def put_refit(self, refit: SavedRefit) -> None:
        """Keep a refit's record; the oldest of more than `REFITS_KEPT` give way."""
        with self._changed:
            self._pending.refits[refit.refit_id] = refit
            self._pending.trim(self._job_cap)
            self._noted(0.0)

    def put_job(self, job: SavedJob) -> None:
        """Keep a job's owner; above the cap the oldest give way."""
        self._put_job((job.kind, job.job_id), job)

    def drop_job(self, kind: str, job_id: str) -> None:
        self._put_job((kind, job_id), None)

    def _put_job(self, key: tuple[str, str], job: SavedJob | None) -> None:
        with self._changed:
            self._pending.jobs.pop(key, None)  # a later change is younger, whatever it changes
            self._pending.jobs[key] = job
            if len(self._pending.jobs) > self._job_cap:
                self._pending.trim(self._job_cap)
            self._noted(GATHER_S)

    @property
    def unsaved(self) -> int:
        """Changes that are not on disk yet."""
        with self._changed:
            return len(self._pending) + len(self._writing)

    async def flush(self, within_s: float = 5.0) -> bool:
        """Wait until everything that was put before is on disk.

        Returns:
            False when it is not: the disk takes nothing, or not in time.
        """
        with self._changed:
            if self._saved >= self._put:
                return True
            if self._failing_since_s is not None or self._closing is not None:
                return False
            ending: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._waiting.append((self._put, ending))
            self._due_s = time.monotonic()
            self._changed.notify()
        try:
            async with asyncio.timeout(within_s):
                return await ending
        except TimeoutError:
            _log.warning("state_is_slow", path=str(self.path), waited_s=within_s)
            return False

    async def close(self, *, clean: bool, within_s: float = 5.0) -> None:
        """Write what is left, note how the run ended, and let another router have the file; safe to repeat.

        Args:
            clean: whether the next run need not restore anything; a store that was never started leaves that as it was.
        """
        if self._closing is not None:
            return
        ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._closing = ending
            self._clean = clean
            self._changed.notify()
        if self._thread is None:
            self._finish()
            await ending
            return
        try:
            async with asyncio.timeout(within_s):
                await ending
        except TimeoutError:
            _log.error("state_not_closed", path=str(self.path), waited_s=within_s)

    def _noted(self, gather_s: float) -> None:
        """Have the thread write what was just put, soon."""
        self._put += 1
        due_s = time.monotonic() + gather_s
        if self._failing_since_s is None and (self._due_s is None or due_s < self._due_s):
            self._due_s = due_s
            self._changed.notify()

    # The thread.

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._wait()
            batch, upto = self._take()
            if upto > self._saved:
                self._write(batch, upto)
        self._finish()

    def _wait(self) -> bool:
        """Wait until a batch's time has come, or the end; True for the end."""
        with self._changed:
            while self._closing is None and (self._due_s is None or self._due_s > time.monotonic()):
                self._changed.wait(None if self._due_s is None else self._due_s - time.monotonic())
            return self._closing is not None

    def _take(self) -> tuple[Batch, int]:
        with self._changed:
            self._writing, self._pending = self._pending, Batch()
            self._due_s = None
            return self._writing, self._put

    def _write(self, batch: Batch, upto: int) -> None:
        try:
            self._file.write(batch, keep=self._keep)
        except sqlite3.Error as error:
            self._failed(reason_of(error))
        except Exception as error:  # noqa: BLE001 - the thread's boundary: it must not end, and nobody would know
            _log.exception("state_writer_failed", path=str(self.path))
            self._failed(f"cannot be written: {error!r}")
        else:
            self._wrote(batch, upto)

    def _wrote(self, batch: Batch, upto: int) -> None:
        with self._changed:
            self._saved = upto
            self._writing = Batch()
            for registration, worker in batch.workers.items():
                if worker is None:
                    self._stored_workers.discard(registration)
                else:
                    self._stored_workers.add(registration)
            since_s, self._failing_since_s = self._failing_since_s, None
            due = [ending for number, ending in self._waiting if number <= upto]
            self._waiting = [entry for entry in self._waiting if entry[0] > upto]
        if since_s is not None:
            _log.info("state_saved_again", path=str(self.path), after_s=round(time.monotonic() - since_s, 1))
        for ending in due:
            _tell(ending, True)

    def _failed(self, why: str) -> None:
        """Keep what could not be written under what came since, and try again later."""
        with self._changed:
            self.failures += 1
            is_news = self._failing_since_s is None
            if is_news:
                self._failing_since_s = time.monotonic()
            self._pending = self._pending.over(self._writing)
            self._writing = Batch()
            self._pending.trim(self._job_cap, self._stored_workers)
            self._due_s = time.monotonic() + RETRY_S
            unsaved = len(self._pending)
            due, self._waiting = [ending for _, ending in self._waiting], []
        if is_news:
            _log.error("state_not_saved", path=str(self.path), reason=why, unsaved=unsaved)
        for ending in due:
            _tell(ending, False)

    def _finish(self) -> None:
        try:
            self._file.close(clean=self._clean)
        except sqlite3.Error as error:
            _log.error("state_not_closed", path=str(self.path), reason=reason_of(error))
        self._lock.release()
        if self._closing is not None:
            _tell(self._closing, None)


def _tell(ending: asyncio.Future[Ending], value: Ending) -> None:
    """Hand a value from the thread to whoever waits on the loop; one that has gone needs none."""

    def settle() -> None:
        if not ending.done():
            ending.set_result(value)

    with suppress(RuntimeError):  # the loop is closed
        ending.get_loop().call_soon_threadsafe(settle)
