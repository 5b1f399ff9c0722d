"""What every policy keeps to, whatever its rule."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.policies.rooms import Rooms
from sglang_diffusion_routing.core.policies import POLICIES

pytestmark = pytest.mark.core


@pytest.mark.parametrize("name", POLICIES)
@given(data=st.data())
def test_it_chooses_only_among_those_with_room_and_never_who_is_to_be_avoided(name: str, data: st.DataObject) -> None:
    rooms = Rooms(name, random.Random(data.draw(st.integers())), cap=2)
    for _ in range(data.draw(st.integers(1, 30))):
        step = data.draw(st.sampled_from(["enter", "leave", "choose", "end"]))
        known = sorted(rooms.stations)
        if step == "enter":
            rooms.enter(data.draw(st.sampled_from("abcdef")))
        elif step == "leave" and known:
            rooms.leave(data.draw(st.sampled_from(known)))
        elif step == "end" and any(station.load for station in rooms.stations.values()):
            rooms.end(data.draw(st.sampled_from([n for n in known if rooms.stations[n].load])))
        elif step == "choose":
            avoid = data.draw(st.sets(st.sampled_from("abcdef")))
            may = {name for name in known if rooms.stations[name].load < 2} - avoid
            if may:
                assert rooms.choose(*avoid) in may


@pytest.mark.parametrize("name", POLICIES)
def test_nobody_is_left_out(name: str) -> None:
    rooms = Rooms(name, random.Random(1), cap=0)
    for worker in "abcdefgh":
        rooms.enter(worker)
    chosen = Counter(rooms.choose() for _ in range(800))
    assert set(chosen) == set("abcdefgh")
    assert max(chosen.values()) <= 140
