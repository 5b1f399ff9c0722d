"""Owners of jobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet import url, worker_id
from sglang_diffusion_routing.core.affinity import Affinity, Gone, Pinned, Unknown
from sglang_diffusion_routing.core.worker import Worker

pytestmark = pytest.mark.core


def worker(name: str, incarnation: int = 1) -> Worker:
    return Worker(worker_id(name), url(name), incarnation, registered_s=0.0)


def test_a_job_belongs_to_the_worker_that_made_it() -> None:
    affinity = Affinity()
    affinity.remember("videos", "j", worker("a", 7), 0.0)
    assert affinity.owner("videos", "j", 1.0) == Pinned(worker_id("a"), 7)
    assert affinity.owner("videos", "k", 1.0) == Unknown()


def test_the_same_id_of_another_kind_is_another_job() -> None:
    affinity = Affinity()
    affinity.remember("videos", "j", worker("a"), 0.0)
    affinity.remember("images", "j", worker("b", 2), 0.0)
    assert affinity.owner("videos", "j", 0.0) == Pinned(worker_id("a"), 1)
    assert affinity.owner("images", "j", 0.0) == Pinned(worker_id("b"), 2)


def test_a_removed_workers_jobs_answer_that_it_is_gone_also_after_it_came_back_as_another() -> None:
    affinity = Affinity()
    affinity.remember("videos", "old", worker("a", 1), 0.0)
    affinity.forget_worker(1, "http://a:30000")
    affinity.remember("videos", "new", worker("a", 2), 0.0)
    assert affinity.owner("videos", "old", 0.0) == Gone("http://a:30000")
    assert affinity.owner("videos", "new", 0.0) == Pinned(worker_id("a"), 2)


def test_a_forgotten_job_is_unknown() -> None:
    affinity = Affinity()
    affinity.remember("videos", "j", worker("a"), 0.0)
    affinity.forget("videos", "j")
    affinity.forget("videos", "never heard of")
    assert affinity.owner("videos", "j", 0.0) == Unknown()
    assert len(affinity) == 0


def test_what_an_earlier_run_knew_is_known_again() -> None:
    affinity = Affinity(ttl_s=100.0)
    a, c = Pinned(worker_id("a"), 1), Pinned(worker_id("c"), 2)
    affinity.restore(
        [
            ("videos", "1", a, 10.0),
            ("videos", "2", Gone("http://b"), 20.0),
            ("images", "2", Gone("http://d"), 30.0),
            ("videos", "3", Gone("http://b"), 40.0),
            ("videos", "4", c, 50.0),
        ]
    )
    affinity.remember("videos", "5", worker("a", 1), 0.0)
    asked = [("videos", "1"), ("videos", "2"), ("images", "2"), ("videos", "3"), ("videos", "4"), ("videos", "5")]
    found = [affinity.owner(kind, job_id, 5.0) for kind, job_id in asked]
    assert found == [a, Gone("http://b"), Gone("http://d"), Gone("http://b"), c, a]
    assert affinity.owner("videos", "3", 40.0) == Unknown()
    assert (affinity.jobs_of(1), affinity.jobs_of(2)) == (2, 1)
    affinity.remember("videos", "6", worker("a", 1), 45.0)
    assert (len(affinity), affinity.jobs_of(1)) == (3, 2)


def test_of_more_jobs_than_there_is_room_for_the_last_are_known_again() -> None:
    affinity = Affinity(cap=2)
    affinity.restore([("videos", name, Gone("http://b"), 10.0) for name in "123"])
    assert [affinity.owner("videos", name, 0.0) for name in "123"] == [Unknown(), Gone("http://b"), Gone("http://b")]


def test_a_job_is_remembered_for_its_time() -> None:
    affinity = Affinity(ttl_s=10.0)
    affinity.remember("videos", "j", worker("a"), 5.0)
    assert affinity.owner("videos", "j", 14.9) == Pinned(worker_id("a"), 1)
    assert affinity.owner("videos", "j", 15.0) == Unknown()


def test_jobs_past_their_time_make_room_when_others_come() -> None:
    affinity = Affinity(ttl_s=10.0)
    for number in range(5):
        affinity.remember("videos", f"j{number}", worker("a"), float(number))
    affinity.remember("videos", "last", worker("a"), 13.0)
    assert len(affinity) == 2


def test_the_oldest_job_goes_when_there_is_no_room() -> None:
    affinity = Affinity(cap=2)
    for name in ("j1", "j2", "j1", "j3"):
        affinity.remember("videos", name, worker("a"), 0.0)
    owners = [affinity.owner("videos", name, 0.0) for name in ("j1", "j2", "j3")]
    assert owners == [Pinned(worker_id("a"), 1), Unknown(), Pinned(worker_id("a"), 1)]


def test_nothing_is_kept_of_a_removed_worker_once_its_jobs_are_forgotten() -> None:
    affinity = Affinity(cap=1)
    affinity.remember("videos", "j", worker("a", 1), 0.0)
    affinity.forget_worker(1, "http://a:30000")
    affinity.forget_worker(2, "http://b:30000")
    affinity.remember("videos", "k", worker("c", 3), 0.0)
    assert affinity._gone == {}
    assert affinity._jobs_of == {3: 1}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["remember", "forget", "gone"]), st.integers(0, 5), st.integers(1, 3), st.integers(0, 4)
        )
    )
)
def test_it_is_a_map_with_a_cap_and_a_time(steps: list[tuple[str, int, int, int]]) -> None:
    affinity = Affinity(cap=3, ttl_s=6.0)
    model: dict[str, tuple[int, float]] = {}
    gone: set[int] = set()
    now_s = 0.0
    for step, job, incarnation, wait_s in steps:
        now_s += wait_s
        name = str(job)
        if step == "remember" and incarnation not in gone:
            affinity.remember("videos", name, worker("a", incarnation), now_s)
            model.pop(name, None)
            model = {key: value for key, value in model.items() if value[1] > now_s}
            while len(model) >= 3:
                del model[next(iter(model))]
            model[name] = (incarnation, now_s + 6.0)
        elif step == "forget":
            affinity.forget("videos", name)
            model.pop(name, None)
        elif step == "gone":
            affinity.forget_worker(incarnation, f"http://{incarnation}")
            gone.add(incarnation)
        for number in range(6):
            owner = affinity.owner("videos", str(number), now_s)
            known = model.get(str(number))
            if known is None or known[1] <= now_s:
                assert owner == Unknown()
            elif known[0] in gone:
                assert owner == Gone(f"http://{known[0]}")
            else:
                assert owner == Pinned(worker_id("a"), known[0])
        assert len(affinity) <= 3
        assert sum(affinity.jobs_of(number) for number in range(1, 4)) == len(affinity)
