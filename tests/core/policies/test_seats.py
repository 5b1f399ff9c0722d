"""Any of many in one step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet import url, worker_id
from sglang_diffusion_routing.core.policies.seats import Seats
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.worker import Worker

pytestmark = pytest.mark.core


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))), st.sets(st.integers(0, 5)))
def test_it_is_a_set_that_can_be_counted_off(steps: list[tuple[bool, int]], avoided: set[int]) -> None:
    stations = [Station(Worker(worker_id(f"w{n}"), url(f"w{n}"), n, registered_s=0.0)) for n in range(6)]
    seats, model = Seats(), set[Station]()
    for enters, which in steps:
        one = stations[which]
        if enters and one not in model:
            seats.add(one)
            model.add(one)
        elif not enters and one in model:
            seats.remove(one)
            model.remove(one)
        members = seats.without(frozenset())
        assert len(members) == len(model)
        assert set(members) == model
    rest = seats.without(frozenset(worker_id(f"w{n}") for n in avoided))
    assert set(rest) == model - {stations[n] for n in avoided}
