from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.jobs import Job, Made, OutputFolder, Shelf
from sglang_diffusion_routing.sim.worker import JobFailed

pytestmark = pytest.mark.core


def job(name: str = "a", created_at: int = 0, files: list[Path] | None = None) -> Job:
    return Job({"id": name, "created_at": created_at, "status": "queued", "progress": 0, "file_path": "x"}, files or [])


def shelf(*names_and_seconds: tuple[str, int]) -> Shelf:
    made = Shelf()
    for name, created_at in names_and_seconds:
        made.put(job(name, created_at))
    return made


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["data"]]


def test_a_page_has_the_newest_first() -> None:
    page = shelf(("a", 1), ("b", 2), ("c", 3)).page(after=None, limit=2, order="desc")
    assert ids(page) == ["c", "b"]
    assert {name: page[name] for name in page if name != "data"} == {
        "object": "list",
        "first_id": "c",
        "last_id": "b",
        "has_more": True,
    }


def test_a_page_goes_on_after_a_job() -> None:
    jobs = shelf(("a", 1), ("b", 2), ("c", 3))
    assert ids(jobs.page(after="c", limit=2, order="desc")) == ["b", "a"]
    assert ids(jobs.page(after="a", limit=2, order="asc")) == ["b", "c"]
    assert ids(jobs.page(after="unknown", limit=2, order="asc")) == []


def test_an_empty_page_has_no_ends() -> None:
    assert Shelf().page(after=None, limit=20, order="desc") == {
        "data": [],
        "object": "list",
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_the_oldest_job_is_forgotten_with_its_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    full = Shelf(remembered=2)
    for path in paths:
        path.touch()
        full.put(job(path.name, files=[path]))
    assert [full.get(name) is not None for name in "abc"] == [False, True, True]
    assert [path.exists() for path in paths] == [False, True, True]


def test_progress_never_falls_and_stops_at_99() -> None:
    video = job()
    seen = []
    for share in (0.0, 0.5, 0.25, 1.0):
        video.progress(share)
        seen.append((video.shown["status"], video.shown["progress"]))
    assert seen == [("in_progress", 0), ("in_progress", 50), ("in_progress", 50), ("in_progress", 99)]


def test_a_deleted_job_shows_no_progress() -> None:
    video = job()
    video.shown["status"] = "deleted"
    video.progress(0.5)
    assert (video.shown["status"], video.shown["progress"]) == ("deleted", 0)


def test_a_finished_job_shows_what_it_made() -> None:
    video, ended = job(), Future[Made[int]]()
    ended.set_result(Made(value=7, weights="w", seconds=0.5))
    video.settle(ended, lambda made: {"size": made.value})
    completed_at = video.shown.pop("completed_at")
    assert isinstance(completed_at, int)
    assert video.weights == "w"
    assert video.shown == {
        "id": "a",
        "created_at": 0,
        "status": "completed",
        "progress": 100,
        "file_path": "x",
        "inference_time_s": 0.5,
        "size": 7,
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (JobFailed("no"), "Model generation failed. Error from scheduler: no"),
        (SchedulerDead("Scheduler worker exited"), "Scheduler worker exited"),
    ],
)
def test_a_failed_job_shows_why(error: Exception, message: str) -> None:
    video, ended = job(), Future[Made[int]]()
    ended.set_exception(error)
    video.settle(ended, lambda _made: {})
    assert (video.shown["status"], video.shown["error"], video.shown["file_path"]) == (
        "failed",
        {"message": message},
        None,
    )


def test_files_of_several_outputs_are_numbered(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "new")
    assert folder.files("x", "mp4", 1) == [tmp_path / "new" / "x.mp4"]
    assert folder.files("x", "mp4", 2) == [tmp_path / "new" / "x_0.mp4", tmp_path / "new" / "x_1.mp4"]


def test_a_given_folder_stays_and_a_temporary_one_goes(tmp_path: Path) -> None:
    given, temporary = OutputFolder(tmp_path), OutputFolder(None)
    paths = [given.path, temporary.path]
    given.close()
    temporary.close()
    assert [path.exists() for path in paths] == [True, False]
