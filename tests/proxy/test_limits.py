"""Tests of what bounds a client."""

import pytest

from sglang_diffusion_routing.proxy.limits import limits_of
from sglang_diffusion_routing.settings import Settings

pytestmark = pytest.mark.core


def test_each_limit_is_that_of_its_setting() -> None:
    settings = Settings()
    limits = limits_of(settings)
    names = [name for name in dir(limits) if not name.startswith("_")]
    assert len(names) > 5
    assert {name: getattr(limits, name) for name in names} == {name: getattr(settings, name) for name in names}
