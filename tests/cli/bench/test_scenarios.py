"""Tests of the scenarios."""

import pytest

from sglang_diffusion_routing.cli.bench.scenarios import SCENARIOS, Scenario

pytestmark = pytest.mark.core


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.name))
def test_pieces_take_the_seconds_that_their_kind_says(scenario: Scenario) -> None:
    made = sorted(scenario.seconds(shape) for shape in scenario.shapes(seed=1))
    told = sorted(kind.seconds for kind in scenario.kinds for _ in range(kind.count))
    assert made == pytest.approx(told)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.name))
def test_each_scenario_fits_a_laptop(scenario: Scenario) -> None:
    work_s = sum(scenario.seconds(shape) for shape in scenario.shapes(seed=0))
    assert work_s / sum(scenario.speeds) * scenario.scale < 25
    assert len(scenario.speeds) <= 8


def test_the_order_follows_from_the_seed() -> None:
    mixed = next(scenario for scenario in SCENARIOS if scenario.name == "images-videos")
    assert mixed.shapes(1) == mixed.shapes(1)
    assert mixed.shapes(1) != mixed.shapes(2)


def test_names_are_unique() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
