"""Changes on their way to the disk."""

import pytest

from sglang_diffusion_routing.core.refit import Mode
from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.store.batch import REFITS_KEPT, Batch
from sglang_diffusion_routing.store.saved import SavedJob, SavedRefit, SavedWorker

pytestmark = pytest.mark.core


def job(name: str) -> SavedJob:
    return SavedJob("video", name, "http://a", 1, 5e9)


def refit(name: str) -> SavedRefit:
    return SavedRefit(name, "{}", frozenset({"g"}), "v", Mode.DRAIN, is_open=False)


def test_what_came_later_lies_over_what_came_earlier() -> None:
    a, b = SavedWorker(1, "http://a"), SavedWorker(2, "http://b")
    older = Batch({1: a, 2: b}, {"g": Group()}, {"r": refit("r")}, {("video", "1"): job("1")})
    newer = Batch({2: None}, {"g": Group("v1", 1)}, {}, {("video", "2"): job("2")})
    assert newer.over(older) == Batch(
        {1: a, 2: None},
        {"g": Group("v1", 1)},
        {"r": refit("r")},
        {("video", "1"): job("1"), ("video", "2"): job("2")},
    )
    assert (len(Batch()), len(older), len(newer)) == (0, 5, 3)


def test_the_oldest_jobs_and_refits_give_way() -> None:
    batch = Batch(
        refits={str(n): refit(str(n)) for n in range(REFITS_KEPT + 2)},
        jobs={("video", str(n)): job(str(n)) for n in range(5)},
    )
    batch.trim(job_cap=3)
    assert list(batch.refits) == [str(n) for n in range(2, REFITS_KEPT + 2)]
    assert list(batch.jobs) == [("video", "2"), ("video", "3"), ("video", "4")]


def test_a_worker_that_the_file_never_had_need_not_be_dropped_from_it() -> None:
    kept = SavedWorker(3, "http://c")
    batch = Batch({1: None, 2: None, 3: kept})
    batch.trim(1, stored_workers={2})
    assert batch == Batch({2: None, 3: kept})
