"""Tests of `bench policies`: small scenarios, over real workers and routers."""

import json
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from sglang_diffusion_routing.cli.bench import policies
from sglang_diffusion_routing.cli.bench.gantt import Span
from sglang_diffusion_routing.cli.bench.options import PolicyOptions
from sglang_diffusion_routing.cli.bench.policies import Run
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.bench.scenarios import Kind, Scenario
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings

SMALL = Scenario("small", "8 pieces <b> & one slow worker", (1.0, 0.5), (Kind(8, 3.0), Kind(1, 6.0, 5)), 0.3, 0.02)


def options(out: Path, **changes: object) -> PolicyOptions:
    values: dict[str, object] = {
        "scenarios": (SMALL,),
        "policies": ("least-request", "by-hand"),
        "scale": None,
        "bytes_scale": 0.5,
        "seed": 0,
        "out": out,
        "as_json": True,
    }
    return PolicyOptions(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.e2e
def test_each_policy_is_measured_on_the_same_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policies.run(options(tmp_path), Report(as_json=True)) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document == json.loads((tmp_path / "policies.json").read_text())
    assert (document["seed"], document["bytes_scale"]) == (0, 0.5)
    routed, by_hand = document["runs"]
    assert [(run["policy"], run["scale"], run["completed"], run["errors"]) for run in document["runs"]] == [
        ("least-request", 0.02, 9, {}),
        ("by-hand", 0.02, 9, {}),
    ]
    # 30 s of work on workers of 1 and 0.5: no less than 20 s.
    assert routed["bound_s"] == by_hand["bound_s"] == pytest.approx(20.0)
    for run in document["runs"]:
        assert 20.0 <= run["makespan_s"] == pytest.approx(run["ratio"] * 20.0)
        assert 0 < run["p50_s"] <= run["p99_s"] <= run["makespan_s"]
    # In turn the slow worker gets half of the pieces, and the batch waits for it.
    assert by_hand["fairness"] < routed["fairness"] <= 1.0
    page = (tmp_path / "policies.html").read_text()
    assert "8 pieces &lt;b&gt; &amp; one slow worker" in page
    assert page.count("<svg") == 1
    assert [line.split()[0] for line in captured.err.splitlines() if line.strip().endswith(" 0")] == [
        "least-request",
        "by-hand",
    ]
    with Image.open(tmp_path / "small.png") as image:
        assert len(image.getcolors(maxcolors=2**20) or []) > 5


@pytest.mark.core
def test_a_failure_is_told_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Run("small", "random", 0.02, 25.0, 20.0, 1.25, 1.0, 2.0, 0.9, 7, {"503: asleep": 2}, (Span(0, 1, 2, 1),))
    monkeypatch.setattr(policies, "_play", lambda *_: [failed])
    assert policies.run(options(tmp_path, as_json=False), Report(as_json=False)) == 1
    assert "small, random: 2 failed: 503: asleep\n" in capsys.readouterr().out


@pytest.mark.core
def test_health_checks_are_scaled_only_where_health_is_blocked() -> None:
    blocked = Scenario("blocked", "", (1.0,), (Kind(1, 43.0),), 0.86, 0.01, blocked=0.9)
    common = ["--routing-algorithm", "random", "--seed", "3", "--no-state", "--log-level", "warning"]
    assert policies._flags(SMALL, "random", 0.1, 3) == common
    assert policies._flags(blocked, "random", 0.1, 3) == [
        *common,
        *("--health-check-interval", "1", "--probe-timeout", "0.5"),
    ]
    assert policies._flags(blocked, "random", 0.001, 3)[-3::2] == ["0.1", "0.1"]


@pytest.mark.loopback
def test_only_work_of_this_run_is_drawn_in_the_scenarios_seconds() -> None:
    with SimInThread(SimSettings(overhead_seconds=0.1, seconds_per_mpx_step=0.0)) as sim:
        body = {"prompt": "a fox", "size": "16x16", "num_inference_steps": 1}
        for _ in range(2):
            httpx2.post(f"{sim.url}/v1/images/generations", json=body).raise_for_status()
        began_s = sim.worker.engine.finished[1].started_s - 0.02
        (span,) = policies._spans([sim.url], [0.5], began_s, scale=0.01)
    assert (span.worker, span.began_s) == (0, pytest.approx(2.0))
    assert 10.0 <= span.ended_s - span.began_s == pytest.approx(span.work_s / 0.5)
