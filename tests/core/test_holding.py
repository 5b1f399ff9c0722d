"""How much work is worth waiting for a faster worker."""

from functools import partial
from math import inf

import pytest

from core.fleet import Asker
from core.policies.rooms import Rooms
from sglang_diffusion_routing.core.holding import LOOK, largest_worth
from sglang_diffusion_routing.core.work import Ticket, WorkSpec

pytestmark = pytest.mark.core


approx = partial(pytest.approx, rel=1e-4)


class NoChance:
    def random(self) -> float:
        raise AssertionError("nothing is left to chance")


def rooms(waiting: list[float], cap: int = 1, **workers: tuple[float, list[float]]) -> Rooms:
    """Workers of some speed, with work in flight, and work that waits; all in megapixel-steps."""
    its = Rooms("least-work", NoChance(), cap)
    for name, (speed, in_flight) in workers.items():
        its.enter(name, speed=speed)
        for cost in in_flight:
            others = set(workers) - {name}
            assert its.choose(*others, cost=cost) == name
    for sequence, cost in enumerate(waiting):
        spec = WorkSpec(cost_mpx_steps=cost)
        its.lane.lines.add(Ticket(spec, Asker(spec), 0.0, sequence))
    return its


def worth(its: Rooms, name: str, cost: float | None = None, avoid: frozenset[str] = frozenset()) -> float:
    return largest_worth(its.lane, its.stations[name], avoid, cost, its.now_s)  # type: ignore[arg-type]


def test_a_slow_worker_is_worth_what_it_finishes_before_a_fast_one_is_done_with_all() -> None:
    its = rooms([2.0], slow=(1.0, []), fast=(4.0, [2.0]))
    # The fast one has 0.5 s left and then needs 0.5 s: whatever takes the slow one longer than 1 s waits for it.
    assert worth(its, "slow") == approx(1.0)


def test_the_more_waits_the_more_a_slow_worker_is_worth() -> None:
    assert [worth(rooms([2.0] * n, slow=(1.0, []), fast=(4.0, [2.0])), "slow") for n in (2, 4, 8)] == approx(
        [1.5, 2.5, 4.5]
    )


def test_work_in_flight_on_the_worker_itself_counts_against_it() -> None:
    its = rooms([2.0], cap=2, slow=(1.0, [0.25]), fast=(4.0, [1.0, 1.0]))
    assert worth(its, "slow") == approx(0.75)


def test_work_that_has_just_come_counts_with_what_waits() -> None:
    its = rooms([], slow=(1.0, []), fast=(4.0, [2.0]))
    assert worth(its, "slow", cost=2.0) == approx(1.0)


def test_a_worker_that_is_alone_is_worth_everything() -> None:
    assert worth(rooms([2.0], slow=(1.0, [])), "slow") == inf


def test_a_worker_that_the_work_may_not_go_to_is_not_waited_for() -> None:
    its = rooms([2.0], slow=(1.0, []), fast=(4.0, [2.0]))
    assert worth(its, "slow", avoid=frozenset({its.stations["fast"].worker.worker_id})) == inf


def test_pieces_are_not_cut_while_there_are_few() -> None:
    its = rooms([3.0, 3.0, 3.0], s=(1.0, []), a=(1.0, [1.0]), b=(1.0, [1.0]))
    # Two pieces end at 4 s, the third at 7 s; cut into any parts, they would end at 5.5 s.
    assert worth(its, "s") == approx(7.0)


def test_many_pieces_are_taken_to_be_of_any_size() -> None:
    its = rooms([1.0] * (2 * LOOK), s=(1.0, []), a=(1.0, [4.0]), b=(3.0, [3.0]))
    # b is free after 1 s and a after 4 s, by when b has done 9 of the 64; the other 55 take both of them 13.75 s.
    assert worth(its, "s") == approx(17.75)


def test_of_many_workers_some_stand_for_all() -> None:
    names = [f"w{number}" for number in range(2 * LOOK)]
    its = rooms([1.0] * 10 * LOOK, s=(1.0, []), **{name: (1.0, [1.0]) for name in names})
    assert worth(its, "s") == approx(1.0 + 10 * LOOK / (2 * LOOK), rel=0.01)
