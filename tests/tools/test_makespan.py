"""How soon batches end in the simulation of bench/makespan.py."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.core

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "makespan.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_makespan", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = load()


@pytest.mark.parametrize("scenario", bench.SCENARIOS, ids=lambda scenario: scenario.name)
def test_least_work_keeps_its_limit_and_is_never_above_least_request(scenario: object) -> None:
    rows = [bench.play(policy, scenario, seeds=3, cap=2) for policy in (bench.JUDGED, "least-request")]
    assert bench.faults(rows) == []


def test_a_policy_above_its_limit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "JUDGED", "round-robin")
    scenario = next(one for one in bench.SCENARIOS if one.name == "equal work, three at half speed")
    assert bench.faults([bench.play("round-robin", scenario, seeds=1, cap=2)]) == [
        "equal work, three at half speed: round-robin is above 1.05"
    ]


@pytest.mark.parametrize("seed", range(3))
def test_nobody_waits_for_more_than_twice_as_long_as_in_arrival_order(seed: int) -> None:
    """But for what cannot be given up any more: a longest piece on the worker, and one behind it."""
    scenario = next(one for one in bench.SCENARIOS if one.name == "images and long videos, equal workers")
    costs = scenario.costs(bench.random.Random(seed))
    waits = {
        policy: [piece.granted_s for piece in bench.Run(policy, scenario.speeds, seed=seed).batch(costs)]
        for policy in ("least-work", "longest-first", "least-request")
    }
    late = {
        policy: sum(
            wait > 2 * by_arrival + 2 * max(costs)
            for wait, by_arrival in zip(waits[policy], waits["least-request"], strict=True)
        )
        for policy in ("least-work", "longest-first")
    }
    assert late["least-work"] == 0
    assert late["longest-first"] > 0


def test_the_order_of_a_batch_is_the_same_each_time() -> None:
    scenario = bench.SCENARIOS[2]
    costs = scenario.costs(bench.random.Random(0))
    runs = [[piece.granted_s for piece in bench.Run("least-work", scenario.speeds).batch(costs)] for _ in range(2)]
    assert runs[0] == runs[1]
