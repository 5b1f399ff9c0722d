"""What a state file may be when it is opened."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_diffusion_routing.errors import RouterError, StateCorrupt, StateInUse, StateTooNew, StateUnusable
from sglang_diffusion_routing.store import opening
from sglang_diffusion_routing.store.opening import SCHEMA_VERSION, connect, faults_of
from support.mounts import Mount, mounted


def refused(path: Path) -> RouterError:
    """Give the error of opening a file."""
    with pytest.raises(StateUnusable) as caught, faults_of(path):
        connect(path)
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def made(path: Path) -> Path:
    connect(path).close()
    return path


@pytest.fixture
def mount() -> Iterator[Mount]:
    with mounted(size_bytes=2**20) as mount:
        yield mount


def test_a_new_file_belongs_to_its_user_alone(made: Path) -> None:
    assert made.stat().st_mode & 0o777 == 0o600


def test_an_empty_file_is_filled(path: Path) -> None:
    path.touch()
    connect(path).close()
    connect(path).close()


def test_a_file_whose_making_was_cut_short_is_made(path: Path) -> None:
    # SQLite writes the first page when it turns to WAL, before there is a schema.
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert path.stat().st_size > 0
    connect(path).close()


def test_something_that_is_no_database_is_left_alone(path: Path) -> None:
    path.write_bytes(b"workers: []\n" * 400)
    error = refused(path)
    assert isinstance(error, StateCorrupt)
    assert error.message == (
        f"state file {path} is damaged (file is not a database), and was left as it is; "
        "move it away, or start with --no-state"
    )
    assert path.read_bytes() == b"workers: []\n" * 400


def test_a_database_of_something_else_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (cake TEXT)")
    connection.close()
    before = path.read_bytes()
    error = refused(path)
    assert isinstance(error, StateCorrupt)
    assert "holds something else than a router's state" in error.message
    assert path.read_bytes() == before


def test_a_database_of_a_newer_router_is_left_alone(made: Path) -> None:
    connection = sqlite3.connect(made)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    error = refused(made)
    assert isinstance(error, StateTooNew)
    assert error.message == (
        f"state file {made} is from a newer router (schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}), "
        "and was left as it is; start that router, or name another --state FILE"
    )


def test_a_damaged_page_is_found(made: Path) -> None:
    pages = bytearray(made.read_bytes())
    pages[4096 * 2 : 4096 * 3] = os.urandom(4096)
    made.write_bytes(pages)
    assert isinstance(refused(made), StateCorrupt)


def test_a_file_that_ends_too_early_is_found(made: Path) -> None:
    os.truncate(made, 4096 * 3)
    assert isinstance(refused(made), StateCorrupt)


def test_a_file_that_another_program_writes_is_in_use(made: Path) -> None:
    other = sqlite3.connect(made, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert isinstance(refused(made), StateInUse)
    other.close()


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert error.message == f"state file {tmp_path} cannot be opened: is a directory"


def test_a_pipe_is_no_file(path: Path) -> None:
    os.mkfifo(path)
    assert refused(path).message == f"state file {path} is no regular file"


def test_a_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "state.db"
    assert refused(path).message == f"state file {path} cannot be opened: no such file or directory"


def test_a_disk_that_is_read_only_is_told(mount: Mount) -> None:
    path = mount.path / "state.db"
    connect(path).close()
    mount.make_read_only()
    assert refused(path).message == f"state file {path} cannot be opened: read-only file system"


def test_a_disk_that_is_full_is_told(mount: Mount) -> None:
    mount.fill()
    path = mount.path / "state.db"
    error = refused(path)
    assert (type(error), error.message) == (
        StateUnusable,
        f"state file {path} cannot be written: the disk is full",
    )


def test_a_full_disk_leaves_a_file_that_was_made_whole(mount: Mount) -> None:
    path = mount.path / "state.db"
    connect(path).close()
    before = path.read_bytes()
    mount.fill()
    connection = connect(path)
    with pytest.raises(sqlite3.OperationalError) as caught, opening.transaction(connection):
        connection.execute("INSERT INTO refit (refit_id, document) VALUES (x'00', ?)", ("x" * 100_000,))
    assert opening.reason_of(caught.value) == "cannot be written: the disk is full"
    assert not connection.in_transaction
    connection.close()
    mount.free()
    assert path.read_bytes() == before


def test_what_a_transaction_leaves_by_an_error_is_nothing(made: Path) -> None:
    connection = connect(made)
    with contextlib.suppress(KeyError), opening.transaction(connection):
        connection.execute("UPDATE run SET clean = 7")
        raise KeyError
    assert connection.execute("SELECT clean FROM run").fetchone() == (1,)
    connection.close()
