import pytest
from pydantic import BaseModel, ValidationError

from sglang_diffusion_routing.api.errors import invalid_field
from sglang_diffusion_routing.schemas import (
    Abort,
    Pause,
    RegisterWorkers,
    SwapWorkers,
    UpdateWorker,
    WorkerAddress,
)


def refusal(model: type[BaseModel], fields: dict[str, object]) -> tuple[str, object]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(fields)
    error = invalid_field(caught.value)
    assert (error.code, error.http_status) == ("invalid_field", 400)
    return error.message, error.facts["field"]


@pytest.mark.parametrize(
    ("fields", "message", "field"),
    [
        (
            {},
            "the body must change something: is_dead, refresh_video_support, state, max_concurrency, labels",
            "body",
        ),
        ({"is_dead": "true"}, "'is_dead' must be true or false", "is_dead"),
        ({"is_dead": 1}, "'is_dead' must be true or false", "is_dead"),
        ({"is_dead": None}, "'is_dead' must not be null", "is_dead"),
        ({"dead": True}, "'dead' is not known here", "dead"),
        ({"state": "asleep"}, "'state' must be 'active' or 'drained'", "state"),
        ({"max_concurrency": -1}, "'max_concurrency' must be greater than or equal to 0", "max_concurrency"),
        ({"max_concurrency": "2"}, "'max_concurrency' must be a whole number", "max_concurrency"),
        ({"max_concurrency": 2.0}, "'max_concurrency' must be a whole number", "max_concurrency"),
        ({"max_concurrency": True}, "'max_concurrency' must be a whole number", "max_concurrency"),
        ({"labels": ["a"]}, "'labels' must be an object", "labels"),
        ({"labels": {"a": 1}}, "'labels.a' must be a string", "labels.a"),
    ],
)
def test_a_wrong_change_of_a_worker_is_refused_in_one_sentence(
    fields: dict[str, object], message: str, field: str
) -> None:
    assert refusal(UpdateWorker, fields) == (message, field)


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        ({"group": "a"}, True),
        ({"a/b.c-d_e": "http://x:1/é"}, False),
        ({"": "x"}, False),
        ({"a=b": "x"}, False),
        ({"a": "x\n"}, False),
        ({"a" * 64: "x"}, False),
        ({f"k{n}": "v" for n in range(33)}, False),
    ],
)
def test_labels_are_short_printable_words(labels: dict[str, str], good: bool) -> None:
    if good:
        assert UpdateWorker(labels=labels).labels == labels
    else:
        with pytest.raises(ValidationError):
            UpdateWorker(labels=labels)


def test_null_gives_a_worker_the_routers_own_cap_back() -> None:
    update = UpdateWorker(max_concurrency=None)
    assert (update.max_concurrency, update.model_fields_set) == (None, {"max_concurrency"})


def test_a_worker_may_be_named_by_its_older_field() -> None:
    assert WorkerAddress(worker_url="http://a:1").address == "http://a:1"
    assert WorkerAddress(url="http://a:1").address == "http://a:1"
    assert WorkerAddress().address is None


@pytest.mark.parametrize("model", [WorkerAddress, RegisterWorkers])
def test_two_names_for_different_workers_are_refused(model: type[BaseModel]) -> None:
    fields: dict[str, object] = {"url": "http://a:1", "worker_url": "http://b:1"}
    assert refusal(model, fields) == ("'url' and 'worker_url' name different workers", "body")


@pytest.mark.parametrize(
    ("fields", "message", "field"),
    [
        ({}, "the body must have one of: urls, workers", "body"),
        ({"urls": None}, "the body must have one of: urls, workers", "body"),
        ({"urls": [], "workers": []}, "the body must have one of: urls, workers", "body"),
        ({"url": "u"}, "'url' is not known here", "url"),
        ({"urls": "u"}, "'urls' must be a valid list", "urls"),
        ({"urls": ["u", 2]}, "'urls.1' must be a string", "urls.1"),
        ({"workers": ["u"]}, "'workers.0' must be an object", "workers.0"),
        ({"workers": [{"labels": {}}]}, "'workers.0.url' is required", "workers.0.url"),
        ({"workers": [{"url": "u", "labels": None}]}, "'workers.0.labels' must not be null", "workers.0.labels"),
        ({"workers": [], "labels": {}}, "each of 'workers' has its own 'labels'", "body"),
        ({"workers": [], "max_concurrency": 1}, "each of 'workers' has its own 'max_concurrency'", "body"),
        ({"urls": ["u"], "labels": None}, "'labels' must not be null", "labels"),
        (
            {"urls": ["u"], "max_concurrency": -1},
            "'max_concurrency' must be greater than or equal to 0",
            "max_concurrency",
        ),
    ],
)
def test_a_wrong_set_of_workers_is_refused_in_one_sentence(fields: dict[str, object], message: str, field: str) -> None:
    assert refusal(SwapWorkers, fields) == (message, field)


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan"), 86_401, "5", True])
def test_a_pause_has_a_positive_finite_limit(timeout_s: object) -> None:
    assert refusal(Pause, {"timeout_s": timeout_s})[1] == "timeout_s"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "body"),
        ({"all": False}, "all"),
        ({"all": 1}, "all"),
        ({"rid": ""}, "rid"),
        ({"all": True, "group": "x"}, "body"),
    ],
)
def test_an_abort_names_exactly_one_thing_to_drop(fields: dict[str, object], field: str) -> None:
    assert refusal(Abort, fields)[1] == field
