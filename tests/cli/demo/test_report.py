"""Tests of what the demo shows, on a terminal and without one."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sglang_diffusion_routing.cli.demo.checks import Verdict
from sglang_diffusion_routing.cli.demo.report import Report, Timed, write_samples
from sglang_diffusion_routing.cli.demo.rollout import Sample
from sglang_diffusion_routing.cli.processes import Usage

pytestmark = pytest.mark.core

MakeSample = Callable[..., Sample]
NAMES = {"http://a:1": "A", "http://b:2": "B"}


def plain(width: int = 80) -> tuple[Report, io.StringIO]:
    stream = io.StringIO()
    return Report(Console(file=stream, width=width, force_terminal=False, highlight=False)), stream


@pytest.fixture
def timed(make_sample: MakeSample) -> Timed:
    return Timed(
        [
            [make_sample(reward=0.0), make_sample(number=1, reward=1.0)],
            [make_sample(prompt=1, worker="http://b:2", seconds=1.5, reward=1.0)],
            [make_sample(prompt=2, worker="http://a:1", seconds=0.25, reward=0.0)],
        ],
        seconds=2.0,
    )


def test_a_rollout_knows_who_did_what(timed: Timed) -> None:
    assert (timed.samples, timed.reward) == (4, 0.5)
    assert [(timed.made_by(url), timed.busy_s(url)) for url in NAMES] == [(3, 0.75), (1, 1.5)]


def test_a_step_is_a_line() -> None:
    report, stream = plain()
    report.step("wake", "all awake [in 1 s]")
    assert stream.getvalue() == "wake       all awake [in 1 s]\n"


def test_a_step_without_a_terminal_is_one_line_however_long() -> None:
    report, stream = plain(20)
    report.step("wake", "all awake " * 10)
    assert stream.getvalue() == "wake       " + "all awake " * 10 + "\n"


def test_a_step_on_a_narrow_terminal_is_indented() -> None:
    stream = io.StringIO()
    Report(Console(file=stream, width=30, force_terminal=True, color_system=None)).step(
        "wake", "all awake at last, and well"
    )
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "wake       all awake at last,",
        "           and well",
    ]


def test_progress_without_a_terminal_is_a_line_at_each_quarter() -> None:
    report, stream = plain()
    with report.progress("rollout 1", 40, 4) as tick:
        for _ in range(10):
            tick()
    assert stream.getvalue().splitlines() == [
        "rollout 1  12 of 40 samples",
        "rollout 1  20 of 40 samples",
        "rollout 1  32 of 40 samples",
    ]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_progress_on_a_terminal_is_a_bar_that_fits(width: int) -> None:
    stream = io.StringIO()
    report = Report(Console(file=stream, width=width, force_terminal=True, color_system=None))
    with report.progress("rollout 1", 8, 4) as tick:
        tick()
        tick()
    assert "rollout" in stream.getvalue()
    assert "8/8" in stream.getvalue() or width == 20


def test_places_are_a_letter_a_prompt(timed: Timed) -> None:
    report, stream = plain()
    report.places(NAMES, 1, Timed(list(timed.groups) * 5, 1.0))
    assert stream.getvalue() == "places 1   ABAABAABAABA ABA\n"


@pytest.mark.parametrize("width", [30, 80])
def test_the_table_of_workers_has_a_row_each(timed: Timed, width: int) -> None:
    report, stream = plain(width)
    report.workers(NAMES, [1.0, 0.5], [timed])
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    rows = [line.split() for line in lines if line.split()[:1] in (["A"], ["B"])]
    assert rows == [["A", "1", "3", "38%"], ["B", "0.5", "1", "75%"]]


def test_the_cost_is_a_difference() -> None:
    report, stream = plain(200)
    before, after = Usage(1.0, 50_000_000, 60_000_000), Usage(1.5, 55_000_000, 61_000_000)
    report.cost(before, after, 100, 12.0)
    report.small_cost(before, after, 10_000)
    assert stream.getvalue().splitlines() == [
        "router     100 requests, 12 MB: 0.50 s of CPU; memory 50 MB before, 55 after, 61 at most",
        "           10000 small requests: 50 µs of CPU each",
    ]


def test_claims_are_shown_apart() -> None:
    report, stream = plain()
    report.verdict(Verdict(held=["good"], broken=["bad"]))
    assert stream.getvalue() == "  ✓ good\n  ✗ bad\n"


def test_samples_are_written_as_csv(tmp_path: Path, timed: Timed) -> None:
    write_samples(tmp_path / "samples.csv", NAMES, [timed, timed])
    with (tmp_path / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[2] == {
        "rollout": "1",
        "prompt": "2",
        "sample": "1",
        "seed": "7",
        "worker": "B",
        "url": "http://b:2",
        "weight_version": "0",
        "transformer_sha256": "c0ffee",
        "reward": "1.0000",
        "log_prob": "-8.000",
        "queue_ms": "1.5",
        "prompt_text": "a fox",
    }
