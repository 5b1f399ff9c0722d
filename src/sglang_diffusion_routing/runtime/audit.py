"""Write down who has changed what of the fleet: a line in the log, and one of JSON in a file if there is one.

The file is written by a thread of its own behind a bounded queue, so that a full or slow disk costs records, which are
counted, and never a request.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue

import structlog

_log = structlog.get_logger(__name__)

QUEUE_MAX = 4096
"""Records that wait for the disk."""
FILE_MODE = 0o600
_CLOSE_S = 5.0

Fact = str | int | float


class AuditFile:
    """A file that grows by a line of JSON a record. Raises OSError when it cannot be opened.

    Attributes:
        path: the file. lost: records that were not written.
    """

    def __init__(self, path: Path) -> None:
        self.lost = 0
        self.path = path
        self._file = _opened(path)
        self._queue: Queue[bytes | None] = Queue(QUEUE_MAX)
        self._failing = False
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._writer.start()

    def add(self, record: Mapping[str, Fact]) -> None:
        """Have a record written, soon; returns at once."""
        try:
            self._queue.put_nowait(json.dumps(record).encode() + b"\n")
        except Full:
            self.lost += 1

    def reopen(self) -> None:
        """Go on in a file of the same name: the old one has been moved away. Raises OSError and goes on in the old."""
        fresh = _opened(self.path)
        with self._lock:
            old, self._file = self._file, fresh
        os.close(old)

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and close; safe to repeat."""
        if self._writer.is_alive():
            try:
                self._queue.put(None, timeout=_CLOSE_S)
            except Full:
                return
            self._writer.join(_CLOSE_S)

    def _write_all(self) -> None:
        torn = False
        while (line := self._queue.get()) is not None:
            # A full disk may take the beginning of a line: what comes next begins a line of its own all the same.
            whole = b"\n" + line if torn else line
            try:
                with self._lock:
                    written = os.write(self._file, whole)
            except OSError as error:
                self._failed(error.strerror or str(error))
                continue
            torn = written < len(whole)
            if torn:
                self._failed("no space left for a whole line")
            elif self._failing:
                self._failing = False
                _log.info("audit_log_goes_on", path=str(self.path), lost=self.lost)
        os.close(self._file)

    def _failed(self, why: str) -> None:
        self.lost += 1
        if not self._failing:
            self._failing = True
            _log.error("audit_log_not_written", path=str(self.path), why=why)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)


class Audit:
    """Takes the records of all changes, for the log and, if there is one, a file."""

    def __init__(self) -> None:
        self._file: AuditFile | None = None

    def keep_in(self, file: AuditFile) -> None:
        """Write all records into this file too, from now on; it is closed with the audit."""
        self._file = file

    def changed(self, facts: Mapping[str, Fact]) -> None:
        """Somebody has asked for a change, and this is how it ended."""
        _log.info("control_change", **facts)
        if self._file is not None:
            self._file.add({"time": datetime.now(UTC).isoformat(), **facts})

    def close(self) -> None:
        """Bring what waits to the file; safe to repeat."""
        if self._file is not None:
            self._file.close()
