"""Tests of what is shown, and how."""

import io
import re

import pytest

from sglang_diffusion_routing.cli.remote.screen import Screen

pytestmark = pytest.mark.core


def test_what_comes_from_elsewhere_is_text_and_never_markup() -> None:
    stream = io.StringIO()
    screen = Screen(as_json=False, stream=stream)
    screen.line("[red]worker[/red] \x1b[2J gone\r")
    screen.table(["worker"], [["[bold]x[/bold]\x07"]])

    shown = stream.getvalue()
    assert "[red]worker[/red] ?[2J gone?" in shown
    assert "[bold]x[/bold]?" in shown
    assert "\x1b" not in shown


def test_numbers_stand_to_the_right_and_nothing_is_nothing() -> None:
    stream = io.StringIO()
    Screen(as_json=False, stream=stream).table(["name", "speed"], [["a", 12.3456], ["b", None]])

    assert [line.split() for line in stream.getvalue().splitlines()] == [["name", "speed"], ["a", "12.3"], ["b"]]


def test_a_document_is_as_the_router_said_it() -> None:
    stream = io.StringIO()
    Screen(as_json=True, stream=stream).document({"name": "schritt-ü", "n": None})

    assert stream.getvalue() == '{\n  "name": "schritt-ü",\n  "n": null\n}\n'


ROWS = [
    ["http://127.0.0.1:10090", "active", 2, ""],
    ["http://127.0.0.1:10092", "quarantined", 0, "it failed, and is back when a probe succeeds"],
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def table_on(stream: io.StringIO, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    Screen(as_json=False, stream=stream).table(["worker", "status", "running", "why"], ROWS)
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()]


@pytest.mark.parametrize(("stream", "columns"), [(Terminal(), 100), (io.StringIO(), 100), (io.StringIO(), 20)])
def test_a_row_is_a_line_where_there_is_room_and_always_in_a_pipe(
    stream: io.StringIO, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert table_on(stream, columns, monkeypatch) == [
        "worker                  status       running  why",
        "http://127.0.0.1:10090  active             2",
        "http://127.0.0.1:10092  quarantined        0  it failed, and is back when a probe succeeds",
    ]


def test_on_a_narrow_terminal_a_row_is_some_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table_on(Terminal(), 40, monkeypatch) == [
        "http://127.0.0.1:10090",
        "    status active, running 2",
        "http://127.0.0.1:10092",
        "    status quarantined, running 0",
        "    it failed, and is back when a probe",
        "    succeeds",
    ]


def test_on_a_terminal_for_all_but_the_sentences_these_stand_below(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table_on(Terminal(), 47, monkeypatch) == [
        "worker                  status       running",
        "http://127.0.0.1:10090  active             2",
        "http://127.0.0.1:10092  quarantined        0",
        "    it failed, and is back when a probe",
        "    succeeds",
    ]


def test_a_table_without_rows_has_its_head() -> None:
    stream = io.StringIO()
    Screen(as_json=False, stream=stream).table(["job", "status"], [])
    assert stream.getvalue() == "job  status\n"
