"""The builder of the engine's environment, with something quick in the engine's place."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.build import UNUSED_S, BuildFailed, build, environment, is_complete

pytestmark = pytest.mark.core


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SGLD_ENGINE_HOME", str(tmp_path))
    return tmp_path


def quick(root: Path, device: str) -> None:
    assert list(root.iterdir()) == []
    (root / "device").write_text(device)


def interrupted(root: Path, device: str) -> None:
    quick(root, device)
    raise BuildFailed("no packages")


def test_an_environment_is_made_once(home: Path) -> None:
    root = build("cpu", quick)
    assert (root.parent, (root / "device").read_text()) == (home, "cpu")
    assert build("cpu", interrupted) == root


def test_each_device_has_its_own(home: Path) -> None:
    assert build("cpu", quick) != build("cuda", quick)


def test_what_was_interrupted_is_made_anew() -> None:
    with pytest.raises(BuildFailed):
        build("cpu", interrupted)
    assert not is_complete(environment("cpu"))
    assert is_complete(build("cpu", quick))


def test_two_that_build_at_once_take_turns() -> None:
    begun, may_end = threading.Event(), threading.Event()
    made: list[str] = []

    def slow(root: Path, device: str) -> None:
        quick(root, device)
        begun.set()
        assert may_end.wait(10.0)
        made.append(device)

    with ThreadPoolExecutor(2) as builders:
        first = builders.submit(build, "cpu", slow)
        assert begun.wait(10.0)
        second = builders.submit(build, "cpu", slow)
        assert (second.done(), made) == (False, [])
        may_end.set()
        assert first.result(10.0) == second.result(10.0)
    assert made == ["cpu"]


def test_what_nobody_has_used_for_a_month_goes_when_another_is_made(home: Path) -> None:
    for name, unused_s in (("cpu-old", 1.1 * UNUSED_S), ("cpu-recent", 0.9 * UNUSED_S)):
        (home / name).mkdir()
        (home / name / "complete").touch()
        then_s = time.time() - unused_s
        os.utime(home / name / "complete", (then_s, then_s))
    (home / "cpu-under-way").mkdir()
    root = build("cpu", quick)
    assert {path.name for path in home.iterdir() if path.is_dir()} == {"cpu-recent", "cpu-under-way", root.name}
