"""Tests of what a benchmark shows."""

import pytest

from sglang_diffusion_routing.cli.bench.report import Report

pytestmark = pytest.mark.core

WIDE = [("name", *("a long heading" for _ in range(8))), ("[b]x[/b]", *("123456.789" for _ in range(8)))]


def test_no_number_of_a_wide_table_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    Report(as_json=False).table("figures", WIDE)
    out = capsys.readouterr().out
    assert out.startswith("figures\n")
    assert out.count("123456.789") == 8
    assert "[b]x[/b]" in out


def test_with_json_everything_else_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=True)
    report.line("hello")
    with report.progress("load", 2) as tick:
        tick()
    report.table("figures", WIDE)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hello\n")
