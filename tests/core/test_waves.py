"""Who is next in a refit."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet import Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.waves import Verdict, Waves
from sglang_diffusion_routing.core.worker import Worker, WorkerId

pytestmark = pytest.mark.core


def workers(*names: str) -> list[Worker]:
    fleet = Fleet()
    return [fleet.add(name) for name in names]


def idle(_worker: WorkerId) -> int:
    return 0


def names(begun: list[Worker]) -> list[str]:
    return [worker.url.host for worker in begun]


def test_without_a_limit_all_begin_together_whatever_fails() -> None:
    waves = Waves(workers("a", "b", "c"))
    assert names(waves.begin(idle)) == ["a", "b", "c"]
    waves.ended(Verdict.FAILED)
    assert (waves.begin(idle), waves.over, waves.under_way) == ([], False, 2)
    waves.ended(Verdict.UPDATED)
    waves.ended(Verdict.MISSED)
    assert (waves.over, waves.updated, waves.failed) == (True, 1, 1)


def test_a_limit_is_kept_and_each_end_lets_the_next_begin() -> None:
    waves = Waves(workers("a", "b", "c"), at_once=2)
    assert names(waves.begin(idle)) == ["a", "b"]
    assert waves.begin(idle) == []
    waves.ended(Verdict.UPDATED)
    assert names(waves.begin(idle)) == ["c"]
    assert (waves.waiting, waves.under_way, waves.over) == ([], 2, False)


def test_those_that_serve_nobody_go_first_and_then_who_has_least_to_finish() -> None:
    fleet = Fleet()
    fleet.add("busy")
    fleet.add("idle")
    fleet.register("joining")
    load: Mapping[WorkerId, int] = {worker_id("busy"): 3, worker_id("idle"): 0, worker_id("joining"): 5}
    waves = Waves(list(fleet.pool.workers.values()), at_once=1)
    order = []
    while not waves.over:
        order += names(waves.begin(load.__getitem__))
        waves.ended(Verdict.UPDATED)
    assert order == ["joining", "idle", "busy"]


def test_a_suspect_worker_goes_before_those_that_serve() -> None:
    fleet = Fleet()
    fleet.add("good")
    fleet.add("suspect")
    fleet.apply(ev.RefitRequested(worker_id("suspect"), "refit-1", "v"))
    command = fleet.pool.workers[worker_id("suspect")].command_id
    assert command is not None
    fleet.apply(ev.CommandRefused(worker_id("suspect"), command, "no", unchanged=False))
    waves = Waves(list(fleet.pool.workers.values()), at_once=1)
    assert names(waves.begin({worker_id("good"): 0, worker_id("suspect"): 2}.__getitem__)) == ["suspect"]


@pytest.mark.parametrize("verdicts", [[Verdict.FAILED], [Verdict.MISSED, Verdict.FAILED]])
def test_a_failure_before_any_success_stops_it(verdicts: list[Verdict]) -> None:
    waves = Waves(workers("a", "b", "c", "d"), at_once=1)
    for verdict in verdicts:
        assert len(waves.begin(idle)) == 1
        waves.ended(verdict)
    assert (waves.begin(idle), waves.over) == ([], True)
    assert len(waves.waiting) == 4 - len(verdicts)


def test_one_that_is_still_under_way_may_prove_a_stopped_refit_right() -> None:
    waves = Waves(workers("a", "b", "c"), at_once=2)
    waves.begin(idle)
    waves.ended(Verdict.FAILED)
    assert (waves.begin(idle), waves.over) == ([], False)
    waves.ended(Verdict.UPDATED)
    assert (names(waves.begin(idle)), waves.over) == (["c"], False)


def test_a_failure_after_a_success_stops_nothing() -> None:
    waves = Waves(workers("a", "b", "c"), at_once=1)
    for verdict in (Verdict.UPDATED, Verdict.FAILED):
        waves.begin(idle)
        waves.ended(verdict)
    assert (names(waves.begin(idle)), waves.over) == (["c"], False)


def test_nobody_at_all_is_over_at_once() -> None:
    assert Waves([]).over


@given(
    count=st.integers(0, 6),
    at_once=st.none() | st.integers(1, 7),
    verdicts=st.lists(st.sampled_from(Verdict), max_size=6),
)
def test_whatever_happens_it_ends_with_everybody_begun_once_or_left_alone(
    count: int, at_once: int | None, verdicts: list[Verdict]
) -> None:
    everybody = workers(*(f"w{number}" for number in range(count)))
    waves, begun = Waves(list(everybody), at_once), list[Worker]()
    outcomes = iter(verdicts + [Verdict.UPDATED] * count)
    while not waves.over:
        begun += waves.begin(idle)
        assert 0 < waves.under_way <= (at_once or count)
        waves.ended(next(outcomes))
    assert sorted(w.worker_id for w in begun + waves.waiting) == sorted(w.worker_id for w in everybody)
    assert not waves.waiting or (waves.failed > 0 and not waves.updated)
