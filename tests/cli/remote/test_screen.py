"""Tests of what is shown, and how."""

import io

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
