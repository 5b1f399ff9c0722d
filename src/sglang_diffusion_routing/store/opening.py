"""Open a state file: make it, know it for what it is, and say what keeps it from being used.

WAL with synchronous NORMAL: a commit survives the death of the process at once, and a power cut from the next
checkpoint on; the file is whole in either case (https://sqlite.org/pragma.html#pragma_synchronous). The locking mode
is EXCLUSIVE: nobody else may write, and without shared memory a full disk cannot end in SIGBUS.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sglang_diffusion_routing.errors import StateCorrupt, StateInUse, StateTooNew, StateUnusable

APPLICATION_ID = 0x5347_4452
"""Marks the file as ours (https://sqlite.org/fileformat2.html#application_id): "SGDR"."""

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE run (id INTEGER PRIMARY KEY CHECK (id = 1), clean INTEGER NOT NULL) STRICT;
INSERT INTO run VALUES (1, 1);
CREATE TABLE worker (registration INTEGER PRIMARY KEY, document TEXT NOT NULL) STRICT;
CREATE TABLE weight_group (name BLOB PRIMARY KEY, document TEXT NOT NULL, recipe TEXT NOT NULL) STRICT;
CREATE TABLE raised (
    name BLOB NOT NULL, version BLOB NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;
CREATE INDEX raised_in_order ON raised (name, sequence);
CREATE TABLE refit (place INTEGER PRIMARY KEY, refit_id BLOB NOT NULL UNIQUE, document TEXT NOT NULL) STRICT;
CREATE TABLE job (
    kind BLOB NOT NULL, job_id BLOB NOT NULL, worker_url BLOB NOT NULL, registration INTEGER NOT NULL,
    expires_unix_s REAL NOT NULL, running INTEGER NOT NULL, PRIMARY KEY (kind, job_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_in_order ON job (expires_unix_s);
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, or make it; what it holds is left as it is.

    Raises:
        StateUnusable: with its kinds.
        sqlite3.Error, OSError: for `faults_of`.
    """
    _make(path)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        is_new = _identify(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        if is_new:
            with transaction(connection):
                _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def reason_of(error: sqlite3.Error | OSError) -> str:
    """Say in half a sentence what is wrong with the disk or the file."""
    if isinstance(error, OSError):
        return f"cannot be opened: {os.strerror(error.errno).lower() if error.errno else error}"
    return {
        sqlite3.SQLITE_FULL: "cannot be written: the disk is full",
        sqlite3.SQLITE_READONLY: "cannot be written: it is read-only",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened",
        sqlite3.SQLITE_IOERR: f"cannot be read or written: {error}",
    }.get(_code(error), f"cannot be used: {error}")


def _code(error: sqlite3.Error) -> int:
    """Give the primary result code (https://sqlite.org/rescode.html); Python's own errors have none."""
    return error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else 0


def make_directory(path: Path) -> None:
    """Make the directory of a state file, for its user alone.

    Raises:
        StateUnusable: something else is in its place.
        OSError: it cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StateUnusable(str(path), f"cannot be made: {path.parent} is no directory") from None


def _make(path: Path) -> None:
    """Make an empty file that only this user can read, or see that what is there is a file."""
    # No exclusive creation: the lock beside it says already that nobody else makes it.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StateUnusable(str(path), "is no regular file")
    finally:
        os.close(fd)


def _identify(connection: sqlite3.Connection, path: Path) -> bool:
    """Tell whether the file is empty and to be made.

    Raises:
        StateCorrupt: it is damaged, or something else than a router's state.
        StateTooNew: a later version of the router has made it.
    """

    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    application, schema = pragma("application_id"), pragma("user_version")
    if (application, schema) == (0, 0) and connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None:
        return True
    if application != APPLICATION_ID:
        raise StateCorrupt(str(path), "holds something else than a router's state")
    if schema > SCHEMA_VERSION:
        raise StateTooNew(str(path), schema, SCHEMA_VERSION)
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise StateCorrupt(str(path), f"is damaged ({str(found).splitlines()[-1]})")
    return False


def _create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all that the block writes, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has SQLite roll back by itself (https://sqlite.org/lang_transaction.html).
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say of a file into what keeps the router from starting.

    Raises:
        StateUnusable, StateInUse, StateCorrupt: instead of sqlite3.Error and OSError.
    """
    try:
        yield
    except sqlite3.Error as error:
        match _code(error):
            # A plain error is a statement that the schema does not fit.
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:
                raise StateCorrupt(str(path), f"is damaged ({error})") from None
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise StateInUse(str(path), None) from None
        raise StateUnusable(str(path), reason_of(error)) from None
    except OSError as error:
        raise StateUnusable(str(path), reason_of(error)) from None
