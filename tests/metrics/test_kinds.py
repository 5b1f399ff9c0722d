"""What is declared."""

import re

import pytest

from sglang_diffusion_routing import metrics
from sglang_diffusion_routing.metrics.kinds import Declared, Kind

pytestmark = pytest.mark.core

DECLARED = [value for value in vars(metrics).values() if isinstance(value, Declared)]


@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.name)
def test_a_name_has_the_prefix_and_counters_end_in_total_and_histograms_in_a_unit(declared: Declared) -> None:
    assert re.fullmatch(r"sgld_router_[a-z_]+", declared.name)
    assert declared.name.endswith("_total") is (declared.kind is Kind.COUNTER)
    assert declared.kind is not Kind.HISTOGRAM or declared.name.endswith("_seconds")
    assert declared.meaning


def test_no_name_is_declared_twice() -> None:
    names = [declared.name for declared in DECLARED]
    assert len(names) == len(set(names)) > 40
