"""Policies by name."""

import random

import pytest

from sglang_diffusion_routing.core.policies import DEFAULT_POLICY, POLICIES, make_policy
from sglang_diffusion_routing.settings import RoutingAlgorithm, Settings

pytestmark = pytest.mark.core


def test_the_names_are_those_of_the_command_line() -> None:
    assert list(POLICIES) == [algorithm.value for algorithm in RoutingAlgorithm]
    assert Settings().routing_algorithm.value == DEFAULT_POLICY == "least-work"


@pytest.mark.parametrize("name", POLICIES)
def test_a_name_makes_its_policy_and_each_lane_has_its_own(name: str) -> None:
    rng = random.Random(0)
    one, other = make_policy(name, rng), make_policy(name, rng)
    assert type(one) is type(other) is POLICIES[name]
    assert one is not other


def test_an_unknown_name_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        make_policy("fastest", random.Random(0))
