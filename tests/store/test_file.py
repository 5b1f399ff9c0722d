"""The rows of a state file."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_diffusion_routing.core.refit import Mode, Recipe, StepKind, step_of
from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.errors import StateCorrupt
from sglang_diffusion_routing.store.batch import REFITS_KEPT, Batch
from sglang_diffusion_routing.store.file import StateFile
from sglang_diffusion_routing.store.saved import Saved, SavedJob, SavedRefit, SavedWorker

NOW_UNIX_S = 1_000.0


@contextmanager
def opened(path: Path, *, job_cap: int = 100, now_unix_s: float = NOW_UNIX_S) -> Iterator[StateFile]:
    file = StateFile(path, job_cap, now_unix_s)
    try:
        yield file
    finally:
        file.close()


def saved(path: Path, batch: Batch, *, job_cap: int = 100) -> Saved:
    """Write a batch and give what another process would read."""
    with opened(path, job_cap=job_cap) as file:
        file.load()
        file.write(batch, keep=True)
    with opened(path, job_cap=job_cap) as file:
        return file.load()


def job(name: str, expires_unix_s: float = 2_000.0) -> SavedJob:
    return SavedJob("video", name, "http://a", 1, expires_unix_s)


def jobs(*found: SavedJob) -> Batch:
    return Batch(jobs={(entry.kind, entry.job_id): entry for entry in found})


def refit(name: str, *, is_open: bool = False) -> SavedRefit:
    return SavedRefit(name, "{}", frozenset({"g"}), "v", Mode.DRAIN, is_open)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_a_new_file_holds_nothing_and_counts_as_left_in_order(path: Path) -> None:
    with opened(path) as file:
        assert (file.load(), file.was_clean, file.last_registration) == (Saved(), True, 0)


def test_an_end_that_nobody_noted_was_not_in_order(path: Path) -> None:
    with opened(path) as file:
        file.write(Batch(), keep=True)
    with opened(path) as file:
        assert not file.was_clean
        file.write(Batch(), keep=True)
        file.close(clean=True)
    with opened(path) as file:
        assert file.was_clean


def test_a_run_that_never_began_changes_nothing(path: Path) -> None:
    with opened(path) as file:
        file.write(jobs(job("1")), keep=True)
    with opened(path) as file:
        file.close(clean=True)
    with opened(path) as file:
        assert (file.was_clean, file.load().jobs) == (False, (job("1"),))


def test_what_is_not_to_be_kept_goes_with_the_first_write(path: Path) -> None:
    full = Batch(
        {1: SavedWorker(1, "http://a")}, {"g": Group("v", 1, {"v": 1})}, {"r": refit("r")}, jobs(job("1")).jobs
    )
    assert saved(path, full) == Saved((full.workers[1],), full.groups, (refit("r"),), (job("1"),))  # type: ignore[arg-type]
    with opened(path) as file:
        file.write(jobs(job("2")), keep=False)
        file.write(jobs(job("3")), keep=False)
    with opened(path) as file:
        assert file.load() == Saved(jobs=(job("2"), job("3")))


def test_workers_come_in_the_order_of_their_registration(path: Path) -> None:
    a, b, c = (SavedWorker(number, f"http://{number}") for number in (1, 2, 3))
    assert saved(path, Batch({3: c, 1: a, 2: b})).workers == (a, b, c)
    assert saved(path, Batch({2: None, 1: replace(a, asleep=True)})).workers == (replace(a, asleep=True), c)


def test_the_number_of_a_worker_that_is_gone_is_not_given_again(path: Path) -> None:
    saved(path, Batch({4: SavedWorker(4, "http://a")}, jobs=jobs(replace(job("1"), registration=9)).jobs))
    saved(path, Batch({4: None}))
    with opened(path) as file:
        assert file.last_registration == 9


def test_a_group_writes_only_the_history_that_is_new(path: Path) -> None:
    first = Group("v2", 2, {"v1": 1, "v2": 2})
    again = Group("v1", 3, {"v2": 2, "v1": 3})
    with opened(path) as file:
        file.write(Batch(groups={"g": first}), keep=True)
        file.write(Batch(groups={"g": again}), keep=True)
        counter = sqlite3.Connection.total_changes.__get__(file._connection)
        file.write(Batch(groups={"g": replace(again, raised_by="r")}), keep=True)
        assert file._connection.total_changes - counter == 1
    with opened(path) as file:
        assert file.load().groups == {"g": replace(again, raised_by="r")}
        assert list(file.load().groups["g"].raised) == ["v2", "v1"]


def test_a_group_forgets_what_its_history_has_forgotten(path: Path) -> None:
    saved(path, Batch(groups={"g": Group("v2", 2, {"v1": 1, "v2": 2})}))
    kept = Group("v3", 3, {"v2": 2, "v3": 3})
    assert saved(path, Batch(groups={"g": kept})).groups == {"g": kept}


def test_a_group_takes_another_recipe(path: Path) -> None:
    steps = [step_of(StepKind.DISK, version, "/update_weights_from_disk", (), b"{}") for version in ("a", "b")]
    for sequence, step in enumerate(steps, 1):
        group = Group(step.version, sequence, {step.version: sequence}, recipe=Recipe((step,)))
        assert saved(path, Batch(groups={"g": group})).groups == {"g": group}


def test_refits_keep_their_order_and_the_oldest_go(path: Path) -> None:
    with opened(path) as file:
        for number in range(REFITS_KEPT + 5):
            file.write(Batch(refits={f"r{number}": refit(f"r{number}", is_open=True)}), keep=True)
        file.write(Batch(refits={"r10": refit("r10")}), keep=True)
        found = file.load().refits
    assert [entry.refit_id for entry in found] == [f"r{number}" for number in range(5, REFITS_KEPT + 5)]
    assert [entry.refit_id for entry in found if not entry.is_open] == ["r10"]


def test_jobs_above_the_cap_go_the_first_to_be_forgotten_first(path: Path) -> None:
    many = [job(str(number), 2_000.0 + number) for number in range(20)]
    assert saved(path, jobs(*reversed(many)), job_cap=8).jobs == tuple(many[12:])


def test_a_long_run_keeps_the_file_near_the_cap(path: Path) -> None:
    with opened(path, job_cap=80) as file:
        for number in range(400):
            file.write(jobs(job(str(number), 2_000.0 + number)), keep=True)
        (count,) = file._connection.execute("SELECT count(*) FROM job").fetchone()
        assert 80 <= count <= 80 + 80 // 8


def test_jobs_that_nobody_needs_any_more_are_dropped_when_the_file_is_opened(path: Path) -> None:
    saved(path, jobs(job("old", 1_500.0), job("new", 2_500.0)))
    with opened(path, now_unix_s=2_000.0) as file:
        assert file.load().jobs == (job("new", 2_500.0),)


def test_a_job_is_made_again_and_dropped(path: Path) -> None:
    running = replace(job("1"), running=True)
    assert saved(path, jobs(job("1"), job("2"))).jobs == (job("1"), job("2"))
    assert saved(path, Batch(jobs={("video", "1"): running, ("video", "2"): None})).jobs == (running,)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE weight_group SET document = '{'",
        "UPDATE weight_group SET document = '[]'",
        "UPDATE weight_group SET recipe = '[{}]'",
        "UPDATE worker SET document = '{}'",
        'UPDATE worker SET document = \'{"labels": {}, "odd": 1}\'',
        "UPDATE refit SET document = replace(document, 'drain', 'flood')",
        "INSERT INTO raised VALUES (x'ff', x'00', 1)",
        "UPDATE job SET job_id = x'ff'",
        "DROP TABLE job",
    ],
)
def test_a_row_that_no_router_wrote_is_damage(path: Path, damage: str) -> None:
    saved(
        path,
        Batch(
            {1: SavedWorker(1, "http://a")},
            {"g": Group("v", 1, recipe=Recipe((step_of(StepKind.TENSOR, "v", "/x"),)))},
            {"r": refit("r")},
            jobs(job("1")).jobs,
        ),
    )
    connection = sqlite3.connect(path)
    connection.execute(damage)
    connection.commit()
    connection.close()
    with pytest.raises(StateCorrupt) as caught, opened(path) as file:
        file.load()
    assert "is damaged" in caught.value.message


def test_a_batch_that_fails_in_its_middle_leaves_nothing(path: Path) -> None:
    odd = replace(job("2"), expires_unix_s="never")  # type: ignore[arg-type]
    with opened(path) as file:
        file.write(jobs(job("0")), keep=True)
        with pytest.raises(sqlite3.Error):
            file.write(Batch({1: SavedWorker(1, "http://a")}, jobs=jobs(job("1"), odd).jobs), keep=True)
        file.write(jobs(job("3")), keep=True)
    with opened(path) as file:
        assert file.load() == Saved(jobs=(job("0"), job("3")))


def test_hundred_thousand_jobs_are_read_in_a_moment(path: Path) -> None:
    with opened(path, job_cap=100_000) as file:
        file.write(jobs(*(job(f"video_{number:032}", 2_000.0 + number) for number in range(100_000))), keep=True)
    began_s = time.monotonic()
    with opened(path, job_cap=100_000) as file:
        assert len(file.load().jobs) == 100_000
    assert time.monotonic() - began_s < 5.0
