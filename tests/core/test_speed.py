"""What is learned of a worker's speed."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.core.speed import HALF_LIFE_PIECES, OUTLIER_FACTOR, SHORT_S, UNKNOWN_SPEED, Speed, Speeds

pytestmark = pytest.mark.core

COSTS = st.floats(1e-3, 1e6)
SECONDS = st.floats(1e-6, 1e6)


def learned(*pieces: tuple[float, float]) -> Speed:
    speed = Speed()
    for cost, seconds in pieces:
        speed.learn(cost, seconds)
    return speed


def test_a_first_piece_of_work_gives_its_own_speed() -> None:
    speed = learned((100.0, 4.0))
    assert (speed.per_s, speed.expected, speed.confidence) == (25.0, 25.0, 0.5)


def test_nothing_is_known_before() -> None:
    speed = Speed()
    assert (speed.per_s, speed.expected, speed.confidence) == (0.0, UNKNOWN_SPEED, 0.0)


def test_confidence_grows_with_the_work_that_is_remembered() -> None:
    speed = Speed()
    seen = []
    for _ in range(200):
        speed.learn(10.0, 1.0)
        seen.append(speed.confidence)
    assert seen[:3] == pytest.approx([0.5, 0.6612, 0.7419], abs=1e-3)
    assert all(later >= earlier for earlier, later in pairwise(seen))
    assert seen[-1] == pytest.approx(0.959, abs=1e-3)


def test_large_pieces_count_for_more_than_small_ones() -> None:
    speed = learned(*[(1.0, 1.0), (99.0, 66.0)] * 20)
    assert speed.per_s == pytest.approx(100 / 67, rel=0.01)


@pytest.mark.parametrize("seconds", [1e-9, 1e9])
def test_one_outlier_moves_the_speed_by_a_bounded_part_however_far_it_lies(seconds: float) -> None:
    speed = learned(*[(10.0, 1.0)] * 100)
    speed.learn(10.0, seconds)
    weight = 1 - 2 ** (-1 / HALF_LIFE_PIECES)
    longest = max(OUTLIER_FACTOR - 1, 1 - 1 / OUTLIER_FACTOR)
    assert abs(10.0 / speed.per_s - 1.0) < weight * longest * 1.05


@given(pieces=st.lists(st.tuples(COSTS, SECONDS), min_size=1, max_size=50))
def test_a_speed_is_always_a_positive_number_and_within_what_was_seen(pieces: list[tuple[float, float]]) -> None:
    speed = learned(*pieces)
    seen = [cost / seconds for cost, seconds in pieces]
    assert min(seen) * 0.999 <= speed.per_s <= max(seen) * 1.001


def test_pieces_that_no_gpu_could_do_count_together_as_one_that_is_long_enough() -> None:
    speed = Speed()
    for _ in range(4):
        speed.gather(3.0, SHORT_S / 5)
    assert speed.confidence == 0.0
    speed.gather(8.0, SHORT_S / 5)
    assert speed.confidence == 0.5
    assert speed.per_s == pytest.approx(20.0 / SHORT_S)
    for _ in range(4):
        speed.gather(1.0, SHORT_S / 5)
    assert speed.confidence == 0.5


def test_half_of_what_was_known_is_forgotten_after_a_half_life_of_work() -> None:
    speed = learned(*[(10.0, 1.0)] * 200)
    for _ in range(int(HALF_LIFE_PIECES)):
        speed.learn(10.0, 2.0)
    assert 10.0 / speed.per_s == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_change_for_good_is_known_as_soon_as_it_would_be_without_bounds(factor: float) -> None:
    speed = learned(*[(10.0, 1.0)] * 200)
    for _ in range(int(HALF_LIFE_PIECES)):
        speed.learn(10.0, factor)
    assert 10.0 / speed.per_s == pytest.approx((1.0 + factor) / 2.0, rel=0.15)


def test_outliers_on_both_sides_in_turn_stay_bounded() -> None:
    speed = learned(*[(10.0, 1.0)] * 200)
    for _ in range(8):
        speed.learn(10.0, 1e9)
        speed.learn(10.0, 1e-9)
    assert 0.9 < 10.0 / speed.per_s < 1.5


def test_noise_leaves_the_speed_within_a_few_parts_in_a_hundred() -> None:
    rng = random.Random(1)
    speed = Speed()
    for _ in range(300):
        cost = rng.choice([1.0, 5.0, 50.0])
        stuck = 30.0 if rng.random() < 0.03 else 1.0
        speed.learn(cost, cost / 8.0 * rng.uniform(0.9, 1.1) * stuck)
    assert speed.per_s == pytest.approx(8.0, rel=0.15)


def test_a_worker_without_work_is_taken_to_be_like_its_peers_and_they_like_all_others() -> None:
    speeds = Speeds()
    speeds.of("a", ("m",)).learn(30.0, 3.0)
    assert [speeds.of("b", ("m",)).expected, speeds.of("c", ("n",)).expected] == [10.0, 10.0]
    speeds.of("c", ("n",)).learn(40.0, 4.0 * 2)
    speeds.of("c", ("n",)).learn(40.0, 4.0 * 2)
    assert speeds.of("b", ("m",)).expected == 10.0
    assert 5.0 <= speeds.of("d", ("n",)).expected < 7.0
    assert (speeds.of("b", ("m",)).per_s, speeds.of("b", ("m",)).confidence) == (0.0, 0.0)


def test_a_worker_that_has_done_little_is_drawn_towards_its_peers() -> None:
    speeds = Speeds()
    for _ in range(100):
        speeds.of("a", ("m",)).learn(10.0, 1.0)
    new = speeds.of("b", ("m",))
    new.learn(10.0, 2.0)
    assert 5.0 < new.per_s < 7.0
    for _ in range(100):
        new.learn(10.0, 2.0)
    assert new.per_s == pytest.approx(5.0, rel=0.05)


def test_what_a_worker_is_known_for_is_kept_by_worker_and_model() -> None:
    speeds = Speeds()
    speed = speeds.of("a", ("m",))
    assert speeds.of("a", ("m",)) is speed
    assert speeds.of("a", ("n",)) is not speed
    assert speeds.of("b", ("m",)) is not speed


def test_at_the_cap_the_worker_seen_longest_ago_is_forgotten() -> None:
    speeds = Speeds(cap=2)
    first, second = speeds.of("a", ("m",)), speeds.of("b", ("n",))
    assert speeds.of("a", ("m",)) is first
    speeds.of("c", ("o",))
    assert speeds.of("a", ("m",)) is first
    assert speeds.of("b", ("n",)) is not second
