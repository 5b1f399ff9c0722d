"""Tests of the check that tests mirror the source."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.core

CODE = "def f() -> int:\n    return 1\n"


@pytest.fixture
def mirror(load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("check_mirror")
    monkeypatch.setattr(module, "SRC", tmp_path / "src")
    monkeypatch.setattr(module, "TESTS", tmp_path / "tests")
    monkeypatch.setattr(module, "EXCEPTIONS", {})
    return module


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_mirrored_tree_has_no_faults(mirror: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "src", **{"core/pool.py": CODE, "cli/__init__.py": CODE, "core/__init__.py": '"""Doc."""\n'})
    write(tmp_path / "tests", **{"core/test_pool.py": "", "cli/test_cli.py": "", "e2e/test_anything.py": ""})
    assert mirror.faults() == []


def test_a_module_without_tests_is_named(mirror: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "src", **{"core/pool.py": CODE, "cli/__init__.py": CODE})
    assert mirror.faults() == [
        "src: cli/__init__.py has no tests/cli/test_cli.py",
        "src: core/pool.py has no tests/core/test_pool.py",
    ]


def test_a_module_that_only_declares_needs_no_tests(mirror: ModuleType, tmp_path: Path) -> None:
    protocol = (
        'class Sink(Protocol):\n    def taken(self) -> None: ...\n    def left(self) -> None:\n        """Go."""\n'
    )
    write(tmp_path / "src", **{"core/names.py": '"""Names."""\nLIMIT = 3\n', "core/ports.py": protocol})
    assert mirror.faults() == []


def test_tests_without_a_module_are_named(mirror: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "src", **{"core/pool.py": CODE})
    write(tmp_path / "tests", **{"core/test_pool.py": "", "core/test_pond.py": ""})
    assert mirror.faults() == ["tests: core/test_pond.py tests no module of that name"]


def test_an_exception_without_need_is_named(
    mirror: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "src", **{"core/pool.py": CODE, "core/pond.py": CODE})
    write(tmp_path / "tests", **{"core/test_pool.py": ""})
    monkeypatch.setattr(mirror, "EXCEPTIONS", {"core/pond.py": "why", "core/pool.py": "why", "core/lake.py": "why"})
    assert mirror.faults() == [
        "tools: core/pool.py needs no exception",
        "tools: core/lake.py needs no exception",
    ]
