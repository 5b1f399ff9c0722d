"""Tests of `bench policies`: what it shows and writes of the runs."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cli.bench.scenes import SMALL, options
from sglang_diffusion_routing.cli.bench import policies
from sglang_diffusion_routing.cli.bench.gantt import Span
from sglang_diffusion_routing.cli.bench.playing import Run
from sglang_diffusion_routing.cli.bench.policies import Standing, standings
from sglang_diffusion_routing.cli.bench.report import Report


def run(policy: str, repeat: int, makespan_s: float, **changes: object) -> Run:
    values: dict[str, object] = {
        "scenario": "small",
        "policy": policy,
        "repeat": repeat,
        "scale": 0.02,
        "makespan_s": makespan_s,
        "bound_s": 20.0,
        "ratio": makespan_s / 20.0,
        "p50_s": makespan_s / 10,
        "p99_s": makespan_s / 5,
        "fairness": 0.9,
        "completed": 9,
        "errors": {},
        "spans": (Span(0, 0.0, makespan_s, 1.0),),
    }
    return Run(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.e2e
def test_each_policy_is_measured_on_the_same_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policies.run(options(tmp_path, repeat=2), Report(as_json=True)) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document == json.loads((tmp_path / "policies.json").read_text())
    assert (document["seed"], document["bytes_scale"], document["repeat"]) == (0, 0.5, 2)
    assert [(one["repeat"], one["policy"], one["completed"]) for one in document["runs"]] == [
        *((0, "least-request", 9), (0, "by-hand", 9)),
        *((1, "by-hand", 9), (1, "least-request", 9)),
    ]
    assert [(one["policy"], one["failed"]) for one in document["standings"]] == [("least-request", 0), ("by-hand", 0)]
    page = (tmp_path / "policies.html").read_text()
    assert "8 pieces &lt;b&gt; &amp; one slow worker" in page
    assert "lower bound 20 s, medians of 2" in page
    assert page.count("<svg") == 1
    assert [line.split()[0] for line in captured.err.splitlines() if line.strip().endswith(" 0")] == [
        "least-request",
        "by-hand",
    ]
    with Image.open(tmp_path / "small.png") as image:
        assert len(image.getcolors(maxcolors=2**20) or []) > 5


@pytest.mark.core
def test_figures_are_medians_and_each_run_is_compared_with_least_request_in_the_same_repeat() -> None:
    runs = [
        *(run("least-request", 0, 40.0), run("random", 0, 20.0, errors={"503: asleep": 2})),
        *(run("random", 1, 30.0), run("least-request", 1, 20.0, fairness=0.7)),
        *(run("least-request", 2, 30.0), run("random", 2, 45.0, errors={"no": 1, "503: asleep": 1})),
    ]
    assert standings(("least-request", "random"), runs) == [
        Standing("small", "least-request", 30.0, 1.5, 1.0, 2.0, 1.0, 3.0, 6.0, 0.9, 0),
        Standing("small", "random", 30.0, 1.5, 1.0, 2.25, 1.5, 3.0, 6.0, 0.9, 4),
    ]
    (alone,) = standings(("random",), [one for one in runs if one.policy == "random"])
    assert alone.to_least_request is None


@pytest.mark.core
def test_the_run_with_the_median_makespan_is_drawn(tmp_path: Path) -> None:
    runs = [run("by-hand", repeat, makespan_s) for repeat, makespan_s in enumerate([50.0, 24.0, 26.0])]
    drawn = policies._draw(SMALL, options(tmp_path, policies=("by-hand",)), runs)
    assert "by-hand: 1.300 x the lower bound" in [label.text for label in drawn.labels]


@pytest.mark.core
def test_a_failure_is_told_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = run("random", 0, 25.0, errors={"503: asleep": 2})
    monkeypatch.setattr(policies, "_play", lambda *_: [failed])
    assert policies.run(options(tmp_path, policies=("random",), as_json=False), Report(as_json=False)) == 1
    assert "small, random: 2 failed: 503: asleep\n" in capsys.readouterr().out
