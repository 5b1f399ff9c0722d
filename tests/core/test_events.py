"""Events are values, and each has somebody who takes it in."""

import dataclasses
from typing import get_args

import pytest

from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.pool import Pool

pytestmark = pytest.mark.core


def test_the_pool_takes_in_every_event_there_is() -> None:
    declared = {kind for kind in vars(ev).values() if dataclasses.is_dataclass(kind) and kind.__module__ == ev.__name__}
    taken_in = set(vars(Pool)["_take"].dispatcher.registry) - {object}
    assert taken_in == declared == set(get_args(ev.Event))


@pytest.mark.parametrize("kind", get_args(ev.Event))
def test_an_event_cannot_be_changed_after_it_happened(kind: type) -> None:
    assert kind.__dataclass_params__.frozen


def test_what_is_no_event_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="no event: 'worker died'"):
        Pool().handle("worker died", 0.0)  # type: ignore[arg-type]
