"""What counts as a list of workers."""

import pytest

from sglang_diffusion_routing.core.discovery import Named
from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.launchers.discovery.reading import LISTED_MAX, Unreadable, checked

pytestmark = pytest.mark.core


def named(*ports: int) -> list[Named]:
    return [Named(WorkerUrl("http", "10.0.0.1", port)) for port in ports]


def test_each_worker_counts_once_and_first() -> None:
    first = Named(WorkerUrl("http", "10.0.0.1", 2), max_concurrency=1)
    assert checked([first, *named(1, 2, 1)]) == [first, *named(1)]


def test_a_list_that_names_nobody_says_nothing() -> None:
    with pytest.raises(Unreadable, match=r"^names no worker$"):
        checked([])


def test_a_list_that_names_more_workers_than_a_router_takes_in_says_nothing() -> None:
    whole = named(*range(1, LISTED_MAX + 1))
    assert checked(whole) == whole
    with pytest.raises(Unreadable, match=r"^names more than 4096 workers$"):
        checked(named(*range(1, LISTED_MAX + 2)))
