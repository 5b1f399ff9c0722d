"""A router as a process, with a collector and a log that somebody reads."""

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.collector import Collector, Taken, collecting
from support.deadlines import eventually
from support.router import RouterProcess

pytestmark = pytest.mark.e2e

IMAGE = {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1}
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")


@pytest.fixture
def workers() -> Iterator[tuple[str, str]]:
    with SimInThread(SimSettings()) as first, SimInThread(SimSettings()) as second:
        yield first.url, second.url


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def post(router: RouterProcess, path: str, body: object = None, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(f"http://127.0.0.1:{router.port}{path}", json=body or {}, headers=named, timeout=60)


def lines(router: RouterProcess, **facts: object) -> list[dict[str, Any]]:
    """Give the lines of the log that have these facts."""
    read = [json.loads(line) for line in router.stderr().splitlines()]
    return [line for line in read if facts.items() <= line.items()]


def below(spans: list[Taken], parent: Taken) -> list[str]:
    return sorted(span.name for span in spans if span.parent_id == parent.span_id)


def test_a_loop_of_training_is_told_from_its_client_s_own_trace(workers: tuple[str, str], collector: Collector) -> None:
    with RouterProcess(workers, "--otlp-endpoint", collector.url, "--log-format", "json", "--access-log") as router:
        made = post(router, "/v1/images/generations?key=1", IMAGE, traceparent=PARENT)
        refit = {"model_path": "sim/step-1", "weight_version": "step-1"}
        ids = [made.headers["x-request-id"]]
        for path, body in [
            ("/update_weights_from_disk", refit),
            ("/release_memory_occupation", {}),
            ("/resume_memory_occupation", {}),
        ]:
            reply = post(router, path, body, traceparent=PARENT)
            assert reply.status_code == 200, reply.text
            ids.append(reply.headers["x-request-id"])
        spans = collector.until(lambda taken: "POST /resume_memory_occupation" in {span.name for span in taken})
        by_name = {span.name: span for span in spans}
        assert {span.trace_id for span in spans} == {PARENT.split("-")[1]}
        requests = [span for span in spans if span.kind == "server"]
        assert {span.parent_id for span in requests} == {PARENT.split("-")[2]}
        image = by_name["POST /v1/images/generations"]
        assert below(spans, image) == ["attempt"]
        assert below(spans, by_name["attempt"]) == ["connect", "generate", "relay"]
        for path, name in [("update_weights_from_disk", "refit"), ("release_memory_occupation", "sleep")]:
            assert below(spans, by_name[f"POST /{path}"]) == [name]
        assert below(spans, by_name["POST /resume_memory_occupation"]) == ["wake"]
        assert below(spans, by_name["refit"]) == ["refit_worker", "refit_worker"]
        said = by_name["refit"].said
        assert (said["sglang.router.weight_version"], said["sglang.router.updated"]) == ("step-1", 2)
        assert [span.said["sglang.router.request_id"] for span in requests] == ids
        # The log tells the same story by the same ids.
        for request_id in ids:
            (line,) = lines(router, event="request", request_id=request_id)
            assert line["trace_id"] == PARENT.split("-")[1]
            assert line["status"] == 200
        assert [line["event"] for line in lines(router, request_id=ids[1]) if line["event"].startswith("refit")] == [
            "refit_started",
            "refit_ended",
        ]
        assert "key=1" not in router.stderr()
        assert "a boat" not in router.stderr()


def test_a_worker_that_missed_a_refit_is_told_of(workers: tuple[str, str], collector: Collector) -> None:
    with RouterProcess(workers[:1], "--otlp-endpoint", collector.url) as router:
        post(router, "/update_weights_from_disk", {"model_path": "sim/step-1"})
        post(router, "/workers", {"url": workers[1]})
        spans = collector.until(lambda taken: "resync" in {span.name for span in taken})
        (resync,) = [span for span in spans if span.name == "resync"]
        assert resync.said == {
            "sglang.router.worker": workers[1],
            "sglang.router.weight_version": "1",
            "sglang.router.outcome": "replayed",
            "sglang.router.sent": 1,
        }
        assert not resync.parent_id


@pytest.mark.parametrize("is_there", [True, False], ids=["hangs", "is gone"])
def test_work_goes_on_whatever_the_collector_does(workers: tuple[str, str], is_there: bool) -> None:
    with collecting() as collector:
        if is_there:
            collector.may_answer.clear()
        else:
            collector.close()
        flags = ["--otlp-endpoint", collector.url, "--log-format", "json"]
        with RouterProcess(workers, *flags) as router:
            for _ in range(20):
                assert post(router, "/v1/images/generations", IMAGE).status_code == 200
            if not is_there:
                deadline_s = time.monotonic() + 20
                while not lines(router, event="traces_not_exported"):
                    assert time.monotonic() < deadline_s
                    post(router, "/v1/images/generations", IMAGE)
            router.signal(signal.SIGTERM)
            assert router.wait() == 0
            told = [line["event"] for line in lines(router) if "trace" in line["event"]]
            # Batches are lost for as long as it runs; that is no news each time.
            assert told in ([["traces_not_exported"]] if not is_there else [["traces_not_exported"], []])
            assert "opentelemetry" not in router.stderr()
            assert "Traceback" not in router.stderr()


def test_a_request_that_its_worker_fails_is_found_by_the_id_that_its_client_has() -> None:
    with SimInThread(SimSettings()) as worker:
        url = worker.url
    with RouterProcess([url], "--log-format", "json", "--access-log") as router:
        reply = post(router, "/v1/images/generations", IMAGE)
        assert reply.status_code in {502, 503}
        request_id = reply.headers["x-request-id"]
        (line,) = eventually(lambda: lines(router, event="request", route="images_generations"), bool)
        assert line["status"] == reply.status_code
        assert line["code"] == reply.json()["code"]
        assert line["request_id"] == request_id
