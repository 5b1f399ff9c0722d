"""Questions that lists ask of workers; the merged lists themselves are tested over HTTP in tests/api/test_jobs.py."""

from typing import Any

import pytest

from sglang_diffusion_routing.control.jobs import JobLocator
from sglang_diffusion_routing.control.lists import PAGE_ITEMS, PAGES_MAX, Lists, Wanted
from sglang_diffusion_routing.control.merging import Order, Page
from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, Failure, WorkerApi
from sglang_diffusion_routing.core.events import QuarantineRequested
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import InvalidField, NoEligibleWorker, NoWorkerAnswered
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core
LOST = Answer(Ended.LOST, 502, {"error": "gone"}, failure=Failure.BROKEN)


class Scripted(WorkerApi):
    """Answers by URL and target."""

    def __init__(self, answers: dict[tuple[str, str], object]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def send(self, url: WorkerUrl, call: Call) -> Answer:
        self.asked.append(call.target)
        body = self.answers.get((str(url), call.target))
        return LOST if body is None else Answer(Ended.SUCCEEDED, 200, body)


def lists(fleet: RecordingFleet, api: WorkerApi) -> Lists:
    return Lists(fleet, api, JobLocator(fleet, api, timeout_s=1.0), timeout_s=1.0)


def listed(*rows: object) -> dict[str, Any]:
    return {"object": "list", "data": list(rows)}


FIRST = "/v1/videos?limit=100&order=desc"


async def test_rows_without_an_id_are_left_out() -> None:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    api = Scripted({("http://a:1", FIRST): listed({"id": "x", "created_at": 1}, {"id": 5}, "y", {"created_at": 2})})
    page = await lists(fleet, api).jobs(Wanted("videos", Order.NEWEST_FIRST, 20))
    assert page == Page([{"id": "x", "created_at": 1}], has_more=False)


async def test_the_owner_of_a_cursor_is_asked_behind_it_and_the_others_from_the_top() -> None:
    fleet = RecordingFleet()
    owner = fleet.join("http://a:1")
    fleet.join("http://b:1")
    fleet.affinity.remember("videos", "j 1", owner, fleet.now_s())
    api = Scripted(
        {
            ("http://a:1", "/v1/videos/j%201"): {"id": "j 1", "created_at": 7},
            ("http://a:1", FIRST + "&after=j%201"): listed({"id": "j0", "created_at": 6}),
            ("http://b:1", FIRST): listed({"id": "b9", "created_at": 9}, {"id": "b7", "created_at": 7}),
        }
    )
    page = await lists(fleet, api).jobs(Wanted("videos", Order.NEWEST_FIRST, 20, "j 1"))
    assert [item["id"] for item in page.items] == ["b7", "j0"]


async def test_a_worker_is_not_paged_for_ever() -> None:
    fleet = RecordingFleet()
    owner = fleet.join("http://a:1")
    fleet.join("http://b:1")
    fleet.affinity.remember("videos", "old", owner, fleet.now_s())

    class Endless(Scripted):
        async def send(self, url: WorkerUrl, call: Call) -> Answer:
            self.asked.append(call.target)
            if call.target == "/v1/videos/old":
                return Answer(Ended.SUCCEEDED, 200, {"id": "old", "created_at": 0})
            young = [{"id": f"y{n}", "created_at": 1} for n in range(PAGE_ITEMS)]
            return Answer(Ended.SUCCEEDED, 200, listed(*young if str(url) == "http://b:1" else []))

    api = Endless({})
    page = await lists(fleet, api).jobs(Wanted("videos", Order.NEWEST_FIRST, 20, "old"))
    assert (page.items, len(api.asked)) == ([], PAGES_MAX + 2)


async def test_a_cursor_that_nobody_knows_is_refused() -> None:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    with pytest.raises(InvalidField) as caught:
        await lists(fleet, Scripted({})).jobs(Wanted("videos", Order.NEWEST_FIRST, 20, "who"))
    assert caught.value.facts == {"field": "after"}


async def test_models_come_once_each_from_the_first_worker_that_serves_them() -> None:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    fleet.join("http://b:1")
    answers: dict[tuple[str, str], object] = {
        ("http://a:1", "/v1/models"): listed({"id": "m", "owned_by": "a"}),
        ("http://b:1", "/v1/models"): listed({"id": "m", "owned_by": "b"}, {"id": "n"}),
    }
    assert await lists(fleet, Scripted(answers)).models() == [{"id": "m", "owned_by": "a"}, {"id": "n"}]


async def test_nobody_to_ask_and_nobody_who_answers_are_told_apart() -> None:
    fleet = RecordingFleet()
    with pytest.raises(NoEligibleWorker):
        await lists(fleet, Scripted({})).models()
    worker = fleet.join("http://a:1")
    with pytest.raises(NoWorkerAnswered):
        await lists(fleet, Scripted({})).models()
    with pytest.raises(NoWorkerAnswered):
        await lists(fleet, Scripted({})).jobs(Wanted("meshes", Order.OLDEST_FIRST, 1))
    fleet.apply(QuarantineRequested(worker.worker_id))
    with pytest.raises(NoEligibleWorker):
        await lists(fleet, Scripted({})).models()
