"""Tests of the generator of the docs' tables."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.core

Load = Callable[[str], ModuleType]
PAGE = "# Errors\n\n<!-- generated: errors -->\nold\n<!-- end -->\n\nMore text.\n"


@pytest.fixture
def docs(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("make_docs")
    monkeypatch.setattr(module, "DOCS", tmp_path)
    return module


def run(docs: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["make_docs.py", *words])
    status: int = docs.main()
    return status


def test_a_table_replaces_what_stood_between_the_marks(docs: ModuleType) -> None:
    page = docs.filled(PAGE)
    assert page.startswith("# Errors\n\n<!-- generated: errors -->\n\n| Status |")
    assert page.endswith(" |\n\n<!-- end -->\n\nMore text.\n")
    assert "old" not in page
    assert docs.filled(page) == page


def test_an_unknown_table_is_an_error(docs: ModuleType) -> None:
    with pytest.raises(KeyError, match="zebras"):
        docs.filled("<!-- generated: zebras -->\n<!-- end -->")


def test_a_check_writes_nothing_and_fails_when_a_page_differs(
    docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "errors.md").write_text(PAGE)
    assert run(docs, monkeypatch, "--check") == 1
    assert (tmp_path / "errors.md").read_text() == PAGE
    assert capsys.readouterr().out == "docs/errors.md differs from the code; run `make docs`\n"
    assert run(docs, monkeypatch) == 0
    assert run(docs, monkeypatch, "--check") == 0


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (
            "settings",
            "| `--port` | number, at least 0, at most 65535 | 30080 | port to listen on; 0 takes any free one |",
        ),
        ("launcher", "| `wait_timeout` | 600 | all | how long a worker may take until it serves |"),
        ("errors", "| 429 | `queue_full` | router | yes | As many requests, or bytes, wait for a worker as may |"),
        ("metrics", "| `sgld_router_queue_requests` | gauge | none | requests that wait for a worker |"),
        ("worker-states", "| draining (sleep) | drained | releasing | kept | release memory |"),
    ],
)
def test_each_table_has_its_rows(docs: ModuleType, table: str, row: str) -> None:
    assert row in docs.filled(f"<!-- generated: {table} -->\n<!-- end -->").splitlines()


def test_a_control_route_is_shown_with_its_parameters_replies_and_errors(docs: ModuleType) -> None:
    page = docs.filled("<!-- generated: control-routes -->\n<!-- end -->")
    section = page[page.index("### DELETE /workers/{worker_id}\n") :]
    assert re.split(r"\n(?=##)", section)[0] == (
        "### DELETE /workers/{worker_id}\n\n"
        "Remove a worker: at once when idle or by force, else when its work has ended.\n\n"
        "| Parameter | In | Type | Meaning |\n|---|---|---|---|\n"
        "| `worker_id` | path | string, required | the worker's URL, percent-encoded once, twice or not at all |\n"
        "| `force` | query | boolean, default `false` | at once, and with its work cancelled |\n\n"
        "- Key: admin\n"
        "- **200**: [WorkerRemoved](#workerremoved).\n"
        "- **202**: [WorkerRemoved](#workerremoved). It drains.\n"
        "- Errors: 400 `invalid_field`; 404 `unknown_worker`\n"
    )


def test_every_shape_that_is_linked_is_shown(docs: ModuleType) -> None:
    page = docs.filled("<!-- generated: control-routes -->\n<!-- end -->\n<!-- generated: shapes -->\n<!-- end -->")
    linked = set(re.findall(r"\]\(#(\w+)\)", page))
    assert linked - {heading.lower() for heading in re.findall(r"^### (\w+)$", page, re.MULTILINE)} == set()
