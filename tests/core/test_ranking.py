"""How much is ranked anew at a time, and what of it has to be."""

import hashlib

import pytest

from core.fleet import Asker
from sglang_diffusion_routing.core.policies.consistent_hash import favourite
from sglang_diffusion_routing.core.ranking import HASHES_AT_ONCE, Ranking
from sglang_diffusion_routing.core.work import LineKey, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerId

pytestmark = pytest.mark.core

A, B, C = (WorkerId(f"http://{name}:30000") for name in "abc")


def ticket(number: int, *workers: WorkerId) -> Ticket:
    """One that waits for the first of these."""
    spec = WorkSpec(digest=hashlib.sha256(b"%d" % number).digest())
    key = LineKey.of(spec)._replace(bound=favourite(spec.digest, workers))
    return Ticket(spec, Asker(spec), 0.0, number, key)


def test_what_a_newcomer_does_not_rank_before_stays_where_it_is() -> None:
    ranking, tickets = Ranking(), [ticket(number, A, B) for number in range(300)]
    ranking.add(tickets, frozenset({C}))
    moved = list(ranking.take(3))
    assert moved == [each for each in tickets if favourite(each.spec.digest, [A, B, C]) == C]
    assert 50 < len(moved) < 150
    assert len(ranking) == 0


def test_what_has_lost_its_worker_is_ranked_whoever_comes() -> None:
    ranking, lost = Ranking(), [ticket(number, A, B) for number in range(10)]
    ranking.add(lost, frozenset({C}))
    ranking.add(lost, None)
    ranking.add(lost, frozenset({C}))
    assert (len(ranking), list(ranking.take(3))) == (10, lost)


def test_newcomers_add_up() -> None:
    ranking, tickets = Ranking(), [ticket(number, A) for number in range(100)]
    ranking.add(tickets, frozenset({B}))
    ranking.add(tickets, frozenset({C}))
    assert list(ranking.take(3)) == [each for each in tickets if favourite(each.spec.digest, [A, B, C]) != A]


@pytest.mark.parametrize("workers", [1, 64, HASHES_AT_ONCE * 2])
def test_a_turn_has_an_end_and_begins_with_the_first(workers: int) -> None:
    ranking, lost = Ranking(), [ticket(number, A) for number in range(HASHES_AT_ONCE + 1)]
    ranking.add(lost, None)
    taken = list(ranking.take(workers))
    assert taken == lost[: max(HASHES_AT_ONCE // workers, 1)]
    assert len(ranking) == len(lost) - len(taken)
    assert taken[0] not in ranking
    assert lost[-1] in ranking


def test_who_waits_no_more_costs_nothing() -> None:
    ranking, gone = Ranking(), [ticket(number, A) for number in range(HASHES_AT_ONCE * 3)]
    ranking.add(gone, None)
    for each in gone[:-1]:
        each.waiting = False
    assert list(ranking.take(64)) == gone[-1:]
    assert len(ranking) == 0
