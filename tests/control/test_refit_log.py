import json

import pytest

from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.control.plan import Plan
from sglang_diffusion_routing.control.refit_log import REFITS_MAX, NoShelf, RefitLog, RefitRecord
from sglang_diffusion_routing.core.refit import Mode, StepKind, step_of
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import UnknownRefit
from sglang_diffusion_routing.store import SavedRefit
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core

A, B = WorkerId("http://a:1"), WorkerId("http://b:1")
STEP = step_of(StepKind.DISK, "v1", "/update_weights_from_disk?x=1", (("content-type", "a/b"),), b'{"model_path":"x"}')
PLAN = Plan("refit-1", "v1", frozenset({"g"}), STEP, Pace(Mode.ROLLING, at_once=2, admit_new=True), 7.0)


def record(refit_id: str = "refit-1", *groups: str) -> RefitRecord:
    return RefitRecord(refit_id, "/update_weights_from_disk", Mode.DRAIN, groups=list(groups or ("g",)))


def test_a_refit_is_shown_as_it_goes() -> None:
    log = RefitLog()
    one = record()
    log.enter(one)
    assert (one.view().status, one.view().weight_version, one.view().ended_at) == ("waiting", None, None)
    one.begin(PLAN, [], parts=1)
    one.note(A, "draining")
    one.note(B, "skipped", reason="sleeping")
    one.note(A, "refused", status_code=400, reason="no such path", seconds=1.23456)
    one.end("failed", "why")
    shown = log.get("refit-1").view().model_dump()
    assert shown.pop("started_at") <= shown.pop("ended_at")
    assert shown == {
        "id": "refit-1",
        "route": "/update_weights_from_disk",
        "mode": "drain",
        "weight_version": "v1",
        "groups": ["g"],
        "status": "failed",
        "reason": "why",
        "parts": 1,
        "workers": [
            {
                "worker_url": "http://a:1",
                "status": "refused",
                "status_code": 400,
                "reason": "no such path",
                "seconds": 1.235,
            },
            {
                "worker_url": "http://b:1",
                "status": "skipped",
                "status_code": None,
                "reason": "sleeping",
                "seconds": None,
            },
        ],
    }


async def test_whom_a_refit_is_for_is_known_from_its_first_moment() -> None:
    fleet, one = RecordingFleet(), record()
    one.begin(PLAN, [fleet.join("http://a:1"), fleet.join("http://b:1")], parts=0)
    rows = [(row.worker_url, row.status) for row in one.view().workers]
    assert (one.view().parts, rows) == (0, [("http://a:1", "waiting"), ("http://b:1", "waiting")])


def test_instants_are_utc_as_rfc_3339_has_them() -> None:
    log = RefitLog()
    log.enter(record())
    text = log.get("refit-1").view().started_at
    date, _, time = text.partition("T")
    assert ([len(part) for part in date.split("-")], time[-1], len(time)) == ([4, 2, 2], "Z", len("00:00:00.000Z"))


def test_the_newest_come_first_and_the_oldest_that_is_over_gives_way() -> None:
    log = RefitLog()
    for number in range(REFITS_MAX + 2):
        one = record(f"refit-{number}")
        log.enter(one)
        if number:
            one.end("succeeded")
    shown = [view.id for view in log.newest(1000)]
    assert (len(shown), shown[0], shown[-2:]) == (REFITS_MAX, f"refit-{REFITS_MAX + 1}", ["refit-3", "refit-0"])
    assert [view.id for view in log.newest(2)] == shown[:2]


def test_a_refit_that_nobody_remembers_is_an_error() -> None:
    with pytest.raises(UnknownRefit) as caught:
        RefitLog().get("refit-9")
    assert caught.value.facts == {"refit": "refit-9"}


def test_what_came_to_nothing_is_forgotten() -> None:
    log = RefitLog()
    log.enter(one := record())
    log.drop(one)
    assert log.newest(9) == []


def test_the_last_one_of_some_groups_that_is_over() -> None:
    log = RefitLog()
    for number, groups in enumerate([("a",), ("a", "b"), ("c",), ("a",)]):
        one = record(f"refit-{number}", *groups)
        log.enter(one)
        if number < 3:
            one.end("succeeded")
    found = [log.last_ended(groups) for groups in ({"a"}, {"b"}, {"c", "x"}, {"x"})]
    assert [one and one.refit_id for one in found] == ["refit-1", "refit-1", "refit-2", None]


def test_a_refit_outlives_the_router_whole() -> None:
    one = record()
    RefitLog().enter(one)
    one.begin(PLAN, [], parts=1)
    one.note(A, "updated", status_code=200, seconds=0.5)
    saved = one.saved(PLAN)
    assert saved == SavedRefit(
        "refit-1", saved.document, frozenset({"g"}), "v1", Mode.ROLLING, True, STEP, admit_new=True, drain_limit_s=7.0
    )
    log = RefitLog()
    log.restore(saved)
    assert log.get("refit-1").view() == one.view()
    one.end("succeeded")
    assert (one.saved(PLAN).is_open, json.loads(one.saved(PLAN).document)["status"]) == (False, "succeeded")


def test_what_was_left_open_and_is_over_keeps_no_request() -> None:
    log = RefitLog()
    one = record()
    log.enter(one)
    one.begin(PLAN, [], parts=1)
    log.restore(left := one.saved(PLAN))
    restored = log.get("refit-1")
    restored.end("interrupted", "why")
    closed = restored.closed(left)
    assert (closed.is_open, closed.step, json.loads(closed.document)["status"]) == (False, None, "interrupted")


@pytest.mark.parametrize("document", ["", "{}", "[1]", '{"id": 3}'])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_record_that_cannot_be_read_costs_only_itself(document: str, is_open: bool) -> None:
    log = RefitLog()
    log.restore(SavedRefit("refit-7", document, frozenset({"g"}), "v1", Mode.DRAIN, is_open, STEP))
    shown = log.get("refit-7").view()
    assert (shown.id, shown.route, shown.groups, shown.weight_version) == (
        "refit-7",
        "/update_weights_from_disk",
        ["g"],
        "v1",
    )
    assert (shown.ended_at is None) == is_open


async def test_without_a_shelf_nothing_is_waited_for() -> None:
    shelf = NoShelf()
    shelf.put_refit(record().saved(PLAN))
    assert await shelf.flush()
