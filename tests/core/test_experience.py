"""What finished work teaches."""

import pytest

from core.fleet import T2I, Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.work import Result, WorkSpec
from sglang_diffusion_routing.core.worker import Capability

pytestmark = pytest.mark.core

A, B = worker_id("a"), worker_id("b")


def work(cost: float, *, known: bool = True, job: bool = False) -> WorkSpec:
    return WorkSpec(route="rollout", cost_mpx_steps=cost, cost_known=known, creates_job=job)


def speed(fleet: Fleet, name: str = "a") -> tuple[float, float]:
    """Megapixel-steps per second, and the confidence, of a worker."""
    learned = fleet.scheduler.speed_of(worker_id(name))
    assert learned is not None
    return learned.per_s, learned.confidence


def test_a_finished_piece_of_work_teaches_its_worker_s_speed() -> None:
    fleet = Fleet()
    fleet.add("a")
    assert speed(fleet) == (0.0, 0.0)
    asker = fleet.ask(work(100.0))
    fleet.now_s = 4.0
    fleet.end(asker)
    assert speed(fleet) == (25.0, 0.5)


def test_a_piece_that_waits_in_the_worker_is_timed_from_the_end_of_the_one_before() -> None:
    fleet = Fleet()
    fleet.add("a")
    first, second = fleet.ask(work(100.0)), fleet.ask(work(100.0))
    fleet.now_s = 4.0
    fleet.end(first)
    fleet.now_s = 8.0
    fleet.end(second)
    assert speed(fleet)[0] == 25.0


def test_the_time_in_which_a_reply_is_read_is_not_the_worker_s() -> None:
    fleet = Fleet()
    fleet.add("a")
    first, second = fleet.ask(work(100.0)), fleet.ask(work(100.0))
    assert first.lease is not None
    first.lease.done_s = 4.0
    fleet.now_s = 8.0
    fleet.end(second)
    fleet.now_s = 20.0
    fleet.end(first)
    per_s, confidence = speed(fleet)
    assert (per_s, confidence) == (12.5, 0.5)


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (Result.OK, 400),
        (Result.OK, 302),
        (Result.OK, 0),
        (Result.SERVER_ERROR, 500),
        (Result.ASLEEP, 500),
        (Result.CONNECT_FAILED, 0),
        (Result.DIED, 200),
        (Result.ABANDONED, 200),
        (Result.SCHEDULER_DIED, 503),
    ],
)
def test_only_work_that_was_done_teaches_anything(result: Result, status: int) -> None:
    fleet = Fleet()
    fleet.add("a")
    asker = fleet.ask(work(100.0))
    fleet.now_s = 4.0
    fleet.end(asker, result, status)
    assert speed(fleet) == (0.0, 0.0)


def test_a_job_teaches_only_when_it_has_ended_well() -> None:
    fleet = Fleet()
    fleet.add("a")
    failed, made = fleet.ask(work(100.0, job=True)), fleet.ask(work(100.0, job=True))
    fleet.now_s = 4.0
    fleet.end(failed, status=0)
    assert speed(fleet) == (0.0, 0.0)
    fleet.now_s = 9.0
    assert made.lease is not None
    made.lease.done_s = 9.0
    fleet.end(made, status=0)
    assert speed(fleet)[0] == 20.0


def test_reads_teach_nothing_and_are_no_work() -> None:
    fleet = Fleet()
    fleet.add("a")
    asker = fleet.ask(WorkSpec(skips_queue=True))
    fleet.now_s = 4.0
    fleet.end(asker)
    assert speed(fleet) == (0.0, 0.0)


def test_a_worker_without_work_is_expected_to_be_like_its_peers() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.add("b")
    asker = fleet.ask(work(100.0))
    fleet.now_s = 4.0
    fleet.end(asker)
    idle = fleet.scheduler.speed_of(B if asker.got == "a" else A)
    assert idle is not None
    assert (idle.per_s, idle.expected, idle.confidence) == (0.0, 25.0, 0.0)


def test_a_restarted_or_newly_registered_worker_keeps_what_is_known_of_its_speed() -> None:
    fleet = Fleet()
    fleet.add("a")
    asker = fleet.ask(work(100.0))
    fleet.now_s = 4.0
    fleet.end(asker)
    fleet.learn("a", Capability())
    assert speed(fleet) == (25.0, 0.5)
    fleet.learn("a", T2I)
    assert speed(fleet) == (25.0, 0.5)
    fleet.apply(ev.RemovalRequested(A))
    assert fleet.scheduler.speed_of(A) is None
    fleet.add("a")
    assert speed(fleet) == (25.0, 0.5)


def test_a_worker_that_serves_another_model_has_another_speed() -> None:
    fleet = Fleet()
    fleet.add("a")
    asker = fleet.ask(work(100.0))
    fleet.now_s = 4.0
    fleet.end(asker)
    fleet.learn("a", Capability(("T2I",), ("other",), learned=True))
    assert speed(fleet) == (0.0, 0.0)
    fleet.learn("a", T2I)
    assert speed(fleet) == (25.0, 0.5)


def test_work_whose_size_was_a_guess_teaches_its_size_and_no_speed() -> None:
    fleet = Fleet()
    fleet.add("a")
    for cost, known, at_s in ((100.0, True, 4.0), (1.0, False, 12.0)):
        asker = fleet.ask(work(cost, known=known))
        fleet.now_s = at_s
        fleet.end(asker)
    assert speed(fleet) == (25.0, 0.5)
    # 100 that were read, and then 8 s at a speed of 25: the geometric mean of 100 and 200.
    assert fleet.scheduler.costs.usual("rollout", None) == pytest.approx(20_000**0.5)


def test_work_of_no_time_teaches_when_there_is_enough_of_it() -> None:
    fleet = Fleet()
    fleet.add("a")
    seen = []
    for _ in range(3):
        asker = fleet.ask(work(1.0))
        fleet.now_s += 0.004
        fleet.end(asker)
        seen.append(speed(fleet)[1])
    assert seen == [0.0, 0.0, 0.5]
    assert speed(fleet)[0] == pytest.approx(250.0)
