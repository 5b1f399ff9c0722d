"""Which of what waits is next, and where it goes."""

import pytest

from core.fleet import Asker, Fleet, worker_id
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.work import WorkSpec

pytestmark = pytest.mark.core


def work(cost: float, **asked: object) -> WorkSpec:
    return WorkSpec(route="rollout", cost_mpx_steps=cost, cost_known=True, **asked)  # type: ignore[arg-type]


def fleet(policy: str = "least-work", cap: int = 1, max_requests: int = 100, **speeds: float) -> Fleet:
    """Workers whose speeds are known, and whose clock stands at 0."""
    made = Fleet(SchedulerLimits(QueueLimits(max_requests=max_requests), max_concurrency=cap), policy)
    for name, speed in speeds.items():
        made.add(name)
        learned = made.scheduler.speed_of(worker_id(name))
        assert learned is not None
        for _ in range(200):
            learned.learn(speed, 1.0)
    return made


def served(its: Fleet, askers: list[Asker], first: Asker) -> list[int]:
    """End one piece after the other; give the order in which the askers got the worker."""
    order, running = [], first
    while any(asker.waits for asker in askers):
        its.now_s += 1.0
        its.end(running)
        (got,) = [n for n, asker in enumerate(askers) if asker.lease is not None and asker.lease.live]
        order.append(got)
        running = askers[got]
    return order


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("least-request", [0, 1, 2, 3, 4]),
        ("longest-first", [2, 3, 0, 1, 4]),
        # When the third is done, the work of the first two has been given out twice over.
        ("least-work", [2, 0, 1, 3, 4]),
    ],
)
def test_what_waits_is_taken_in_the_policy_s_order(policy: str, order: list[int]) -> None:
    its = fleet(policy, a=1.0)
    running = its.ask(work(1.0))
    askers = [its.ask(work(cost)) for cost in (2.0, 2.0, 8.0, 8.0, 1.0)]
    assert served(its, askers, running) == order


def test_work_that_another_worker_failed_goes_first() -> None:
    its = fleet(a=1.0, b=1.0)
    running = [its.ask(work(1.0)), its.ask(work(1.0))]
    fresh = its.ask(work(50.0))
    retried = its.ask(work(1.0, avoid=frozenset({worker_id("b")})))
    its.end(next(asker for asker in running if asker.got == "a"))
    assert (retried.got, fresh.waits) == ("a", True)


def test_the_last_piece_waits_for_a_fast_worker_rather_than_go_to_a_slow_one() -> None:
    its = fleet(slow=0.25, fast=1.0)
    running = its.ask(work(2.0))
    assert running.got == "fast"
    last = its.ask(work(2.0))
    assert last.waits
    its.now_s = 2.0
    its.end(running)
    assert last.got == "fast"


def test_with_more_work_a_slow_worker_gets_its_part() -> None:
    its = fleet(slow=0.25, fast=1.0)
    running = its.ask(work(2.0))
    askers = [its.ask(work(2.0)) for _ in range(5)]
    # Alone, the fast one would be done with all of them after 10 s; the slow one needs 8 s for one.
    assert [asker.got for asker in askers if not asker.waits] == ["slow"]
    assert running.got == "fast"


def test_a_shorter_piece_goes_to_the_slow_worker_that_a_longer_one_is_kept_from() -> None:
    its = fleet(slow=0.25, fast=1.0)
    assert its.ask(work(8.0)).got == "fast"
    its.scheduler.pause()
    askers = [its.ask(work(cost)) for cost in (8.0, 1.0, 2.0)]
    its.deliver(its.scheduler.resume(its.now_s))
    # Alone, the fast one would be done with all after 19 s: the slow one needs 32 s for the longest, 8 s for the next.
    assert [None if asker.waits else asker.got for asker in askers] == [None, None, "slow"]


def test_a_shorter_piece_that_has_just_come_goes_to_the_slow_worker_too() -> None:
    its = fleet(slow=0.25, fast=1.0)
    assert its.ask(work(8.0)).got == "fast"
    assert its.ask(work(8.0)).waits
    assert its.ask(work(1.0)).got == "slow"


def test_nothing_is_kept_back_for_longer_than_the_slow_worker_would_have_needed() -> None:
    its = fleet(slow=0.25, fast=1.0)
    its.ask(work(2.0))
    last = its.ask(work(2.0))
    # The fast one hangs: the slow one would have needed 8 s, and gets it after those.
    for _ in range(31):
        its.tick(0.25)
        assert last.waits
    its.tick(0.5)
    assert last.got == "slow"


def test_work_that_would_have_to_be_refused_is_not_kept_back() -> None:
    its = fleet(max_requests=0, slow=0.25, fast=1.0)
    its.ask(work(2.0))
    assert its.ask(work(2.0)).got == "slow"


def test_a_job_is_never_kept_back() -> None:
    its = fleet(slow=0.25, fast=1.0)
    its.ask(work(2.0))
    assert its.ask(work(20.0, creates_job=True)).got == "fast"
    assert its.ask(work(1.0, creates_job=True)).got == "slow"


def test_other_policies_keep_nothing_back() -> None:
    its = fleet("least-request", slow=0.25, fast=1.0)
    assert sorted(asker.got for asker in [its.ask(work(2.0)), its.ask(work(2.0))]) == ["fast", "slow"]


def test_a_pause_holds_what_was_kept_back_too() -> None:
    its = fleet(slow=0.25, fast=1.0)
    its.ask(work(2.0))
    last = its.ask(work(2.0))
    its.tick(0.25)
    its.scheduler.pause()
    its.tick(60.0)
    assert last.waits
    its.deliver(its.scheduler.resume(its.now_s))
    assert last.got == "slow"


def test_what_a_tenant_keeps_for_a_fast_worker_leaves_the_slow_one_to_the_next_tenant() -> None:
    its = fleet(slow=0.1, fast=1.0)
    running = [its.ask(work(10.0, tenant="a", worker=worker_id(name))) for name in ("slow", "fast")]
    long = [its.ask(work(20.0, tenant="a")) for _ in range(2)]
    short = [its.ask(work(1.0, tenant="b")) for _ in range(2)]
    its.end(running[0])
    its.end(next(asker for asker in short if not asker.waits))
    assert ([asker.waits for asker in long], [asker.got for asker in short]) == ([True, True], ["slow", "slow"])
    its.end(running[1])
    assert [asker.got for asker in long if not asker.waits] == ["fast"]
