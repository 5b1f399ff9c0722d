import pytest

from sglang_diffusion_routing.control.selector import select
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import InvalidField, InvalidWorkerUrl, UnknownWorker

pytestmark = pytest.mark.core


def worker(url: str, *labels: tuple[str, str]) -> Worker:
    return Worker(WorkerId(url), WorkerUrl.parse(url), 1, 0.0, labels=labels)


A = worker("http://a:1", ("group", "red"), ("zone", "1"))
B = worker("http://b:2", ("group", "red"))
C = worker("http://[::1]:3")
ALL = [A, B, C]


@pytest.mark.parametrize(
    ("text", "picked"),
    [
        ("all", [A, B, C]),
        ("http://b:2", [B]),
        ("http://b:2,http://a:1", [A, B]),
        (" HTTP://A:1/ , http://[0:0::1]:3 ,", [A, C]),
        ("group=red", [A, B]),
        ("zone=1", [A]),
        ("zone=", []),
        ("zone=2", []),
    ],
)
def test_workers_are_picked_in_their_own_order(text: str, picked: list[Worker]) -> None:
    assert select(text, ALL) == picked


@pytest.mark.parametrize("text", ["", " , ,", "=red"])
def test_a_selector_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        select(text, ALL)
    assert caught.value.facts == {"field": "selector"}


def test_a_worker_that_is_not_registered_is_named() -> None:
    with pytest.raises(UnknownWorker) as caught:
        select("http://a:1,http://z:9", ALL)
    assert caught.value.facts == {"worker_id": "http://z:9"}


@pytest.mark.parametrize("text", ["a:1", "http://169.254.169.254", "http://a:1/path", "ALL"])
def test_what_is_no_worker_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidWorkerUrl):
        select(text, ALL)
