"""Events are values, and each has somebody who takes it in."""

import dataclasses
import inspect
from typing import get_args

import pytest

from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.pool import Pool

pytestmark = pytest.mark.core


def test_the_pool_takes_in_every_event_there_is() -> None:
    declared = {kind for kind in vars(ev).values() if dataclasses.is_dataclass(kind) and kind.__module__ == ev.__name__}
    assert declared == set(get_args(ev.Event))
    for handler, kinds in (("_told", ev.FleetWide), ("_asked", ev.Asked), ("_seen", ev.Seen)):
        assert set(inspect.getattr_static(Pool, handler).dispatcher.registry) - {object} == set(get_args(kinds))


@pytest.mark.parametrize("kind", get_args(ev.Event))
def test_an_event_cannot_be_changed_after_it_happened(kind: type) -> None:
    assert kind.__dataclass_params__.frozen
