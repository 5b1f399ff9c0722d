"""Tests of how a scenario is played: over real workers and routers where that matters."""

from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from cli.bench.scenes import SMALL, options
from sglang_diffusion_routing.cli.bench import playing
from sglang_diffusion_routing.cli.bench.playing import Stage
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.bench.requests import Shape
from sglang_diffusion_routing.cli.bench.scenarios import Kind, Scenario
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings


@pytest.mark.core
def test_each_repeat_begins_with_the_next_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "start_workers", lambda stack, sims: None)
    monkeypatch.setattr(Stage, "play", lambda self, policy, repeat, report: (repeat, policy))
    with ExitStack() as stack:
        stage = Stage(SMALL, options(tmp_path, policies=("a", "b", "c"), repeat=4), stack)
        played = stage.play_all(Report(as_json=True))
    assert played == [
        *((0, "a"), (0, "b"), (0, "c")),
        *((1, "b"), (1, "c"), (1, "a")),
        *((2, "c"), (2, "a"), (2, "b")),
        *((3, "a"), (3, "b"), (3, "c")),
    ]


@pytest.mark.e2e
def test_a_run_is_measured_in_the_scenarios_seconds(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stage = Stage(SMALL, options(tmp_path), stack)
        runs = [stage.play(policy, repeat=0, report=Report(as_json=True)) for policy in ("least-request", "by-hand")]
    assert [(one.policy, one.repeat, one.scale, one.completed, one.errors) for one in runs] == [
        ("least-request", 0, 0.02, 9, {}),
        ("by-hand", 0, 0.02, 9, {}),
    ]
    for one in runs:
        # 30 s of work on workers of 1 and 0.5: no less than 20 s.
        assert one.bound_s == pytest.approx(20.0)
        assert 20.0 <= one.makespan_s == pytest.approx(one.ratio * 20.0)
        assert 0 < one.p50_s <= one.p99_s <= one.makespan_s
        assert sum(span.work_s for span in one.spans) == pytest.approx(30.0, rel=0.5)
    # In turn the slow worker gets half of the pieces, and the batch waits for it.
    assert runs[1].fairness < runs[0].fairness <= 1.0


@pytest.mark.core
def test_each_repeat_has_an_order_of_its_own_and_the_same_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[int, int]]] = []
    monkeypatch.setattr(playing, "start_workers", lambda stack, sims: None)
    shapes = Scenario.shapes

    def noted(self: Scenario, seed: int) -> list[Shape]:
        found = shapes(self, seed)
        seen.append([(shape.steps, shape.frames) for shape in found])
        raise ConnectionError

    monkeypatch.setattr(Scenario, "shapes", noted)
    with ExitStack() as stack:
        stage = Stage(SMALL, options(tmp_path, seed=7), stack)
        for repeat in (0, 0, 1):
            with pytest.raises(ConnectionError):
                stage.play("by-hand", repeat, Report(as_json=True))
    assert seen[0] == seen[1] != seen[2]
    assert sorted(seen[0]) == sorted(seen[2])


@pytest.mark.core
def test_health_checks_are_scaled_only_where_health_is_blocked() -> None:
    blocked = Scenario("blocked", "", (1.0,), (Kind(1, 43.0),), 0.86, 0.01, blocked=0.9)
    common = ["--routing-algorithm", "random", "--seed", "3", "--no-state", "--log-level", "warning"]
    assert playing._flags(SMALL, "random", 0.1, 3) == common
    assert playing._flags(blocked, "random", 0.1, 3) == [
        *common,
        *("--health-check-interval", "1", "--probe-timeout", "0.5"),
    ]
    assert playing._flags(blocked, "random", 0.001, 3)[-3::2] == ["0.25", "0.25"]


@pytest.mark.loopback
def test_only_work_of_this_run_is_drawn_in_the_scenarios_seconds() -> None:
    with SimInThread(SimSettings(overhead_seconds=0.1, seconds_per_mpx_step=0.0)) as sim:
        body = {"prompt": "a fox", "size": "16x16", "num_inference_steps": 1}
        for _ in range(2):
            httpx2.post(f"{sim.url}/v1/images/generations", json=body).raise_for_status()
        began_s = sim.worker.engine.finished[1].started_s - 0.02
        (span,) = playing._spans([sim.url], [0.5], began_s, scale=0.01)
    assert (span.worker, span.began_s) == (0, pytest.approx(2.0))
    assert 10.0 <= span.ended_s - span.began_s == pytest.approx(span.work_s / 0.5)
