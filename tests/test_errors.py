"""Every error: its code, its status, and its body on the wire."""

import inspect
import json
import re

import pytest

from sglang_diffusion_routing import errors
from sglang_diffusion_routing.errors import RouterError, Source

pytestmark = pytest.mark.core

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RouterError)]

W = "http://w:30000"
SAMPLES: dict[str, object] = {
    "message": "it is wrong",
    "method": "PATCH",
    "allow": "GET, HEAD",
    "field": "url",
    "url": W,
    "worker_url": W,
    "worker_id": W,
    "workers": [W, "http://v:30000"],
    "why": "it is odd",
    "where": "--port",
    "job_id": "job-1",
    "path": "/update_weights_of_mine",
    "queued": 3,
    "limit": 3,
    "retry_after_s": 2,
    "by_status": {"sleeping": 2, "active": 1},
    "output": "video",
    "waited_s": 1.5,
    "timeout_s": 5.0,
    "stall_s": 5.0,
    "status": "sleeping",
    "host": "router.example.com",
    "limit_bytes": 7,
    "asked": 4,
    "model": "m",
    "connections": 9,
    "tunnels": 9,
    "waiting": 9,
    "holder": 9,
    "schema": 9,
    "newest": 1,
    "name": "thumbnail-1",
    "refit_id": "refit-1",
    "wanted": "step-7",
    "ready": 1,
    "tail": ("loading", "out of memory"),
    "log": "/var/log/worker.log",
    "targets": {"m": "step-6", "n": None, "": "step-5"},
}


def sample(kind: type[RouterError]) -> RouterError:
    """An error with something in every place."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    plain = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    return kind(**{name: SAMPLES[name] for name in plain})


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_says_one_sentence_with_its_code_and_facts(kind: type[RouterError]) -> None:
    error = sample(kind)
    body = json.loads(error.to_wire())
    assert body == {"error": error.message, "code": kind.code, **error.facts}
    assert list(body)[:2] == ["error", "code"]
    assert re.fullmatch(r"[^\n]+", error.message)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert str(error) == error.message


def test_no_two_errors_have_the_same_code() -> None:
    codes = [kind.code for kind in ERRORS]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("kind", ERRORS)
def test_the_status_says_who_caused_it(kind: type[RouterError]) -> None:
    fault = {4: {Source.CLIENT, Source.ROUTER}, 5: {Source.ROUTER, Source.WORKER, Source.CLIENT}}
    assert kind.source in fault[kind.http_status // 100]
    if kind.source is Source.WORKER:
        assert kind.http_status in {502, 504}


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind.http_status in {429, 503}])
def test_whoever_is_to_come_back_is_told_when(kind: type[RouterError]) -> None:
    error = sample(kind)
    assert kind.retryable
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 1


@pytest.mark.parametrize(
    ("by_status", "message"),
    [
        ({}, "No healthy workers available in the pool: none is registered"),
        ({"sleeping": 3}, "No healthy workers available in the pool: all 3 are asleep"),
        ({"sleeping": 3, "quarantined": 1}, "No healthy workers available in the pool: 1 quarantined, 3 sleeping"),
    ],
)
def test_whoever_finds_no_worker_is_told_how_they_are(by_status: dict[str, int], message: str) -> None:
    error = errors.NoRoutableWorker(by_status)
    assert json.loads(error.to_wire()) == {"error": message, "code": "no_routable_worker", "by_status": by_status}


@pytest.mark.parametrize(
    ("targets", "known"),
    [({"m": "step-6", "n": None, "": "step-5"}, "m: step-6, no name: step-5"), ({}, "there was no refit yet")],
)
def test_a_demand_for_weights_that_nobody_has_is_told_what_there_is(targets: dict[str, str | None], known: str) -> None:
    error = errors.WeightsUnmet("step-7", targets, 1.5, {"active": 2})
    assert json.loads(error.to_wire()) == {
        "error": f"no worker has weights as new as 'step-7' ({known})",
        "code": "weights_unmet",
        "min_weight_version": "step-7",
        "targets": targets,
        "waited_s": 1.5,
        "by_status": {"active": 2},
    }


def test_a_request_without_a_capable_worker_gets_the_sentence_that_clients_know() -> None:
    assert errors.NoCapableWorker("video").to_wire() == (
        b'{"error":"No video-capable workers available in current worker pool.","code":"no_capable_worker",'
        b'"output":"video"}'
    )


def test_both_workers_that_a_request_has_killed_are_named() -> None:
    assert errors.UpstreamDied([W, "http://v:30000"]).to_wire() == (
        b'{"error":"http://w:30000 and http://v:30000 closed the connection before answering",'
        b'"code":"upstream_died","workers":["http://w:30000","http://v:30000"]}'
    )


def test_a_refused_method_names_those_that_are_not() -> None:
    assert errors.MethodNotAllowed("TRACE", "GET, HEAD").headers == (("Allow", "GET, HEAD"),)


def test_a_facts_counts_are_the_errors_own() -> None:
    by_status = {"active": 1}
    error = errors.QueueFull(1, "1 requests", 1, by_status)
    by_status["active"] = 2
    assert error.facts["by_status"] == {"active": 1}


@pytest.mark.parametrize("text", ['"\\', "\x00\n\u2028", "é✓😀", "\ud800"])
def test_whatever_a_client_sent_can_be_told_back_to_it(text: str) -> None:
    assert json.loads(errors.UnknownJob(text).to_wire())["job_id"] == text
