"""The simulated worker answers as the real one: route by route, refusal by refusal, down to its connections."""

from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from engine.image_probes import DEAD_PROBES, IMAGE_PROBES
from engine.likeness import shape
from engine.pair import Pair, beside
from engine.video_probes import VIDEO_PROBES
from engine.worker import EngineWorker
from support.client import Client, Reply, request
from support.deadlines import eventually_equal
from support.wire import Ended


@pytest.fixture(scope="module")
def image_pair(image_worker: EngineWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with beside(image_worker, "sd3", tmp_path_factory.mktemp("simulated-sd3")) as pair:
        yield pair


@pytest.fixture(scope="module")
def video_pair(video_worker: EngineWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with beside(video_worker, "wan", tmp_path_factory.mktemp("simulated-wan")) as pair:
        yield pair


def test_both_have_the_same_routes_and_each_is_asked(image_pair: Pair) -> None:
    real, simulated = (routes(schema) for schema in image_pair.schemas())
    assert real - simulated == set()
    assert simulated - real == set()
    asked = {(probe.method, probe.target.partition("?")[0]) for probe in IMAGE_PROBES}
    missed = {(method, path) for method, path in real if not any(method == m and fits(path, t) for m, t in asked)}
    assert missed == set()


def test_both_take_the_same_fields(image_pair: Pair) -> None:
    real, simulated = (fields(schema) for schema in image_pair.schemas())
    assert simulated == real


def test_both_answer_everything_alike_that_an_image_model_is_asked(image_pair: Pair) -> None:
    assert image_pair.differences(IMAGE_PROBES) == {}


def test_both_answer_everything_alike_that_a_video_model_is_asked(video_pair: Pair) -> None:
    assert video_pair.differences(VIDEO_PROBES) == {}


JSON = b"Content-Type: application/json"
CONNECTIONS = {
    "an unhandled error": request(b"POST", b"/update_weights_from_disk", JSON, body=b"{"),
    "a refusal": request(b"POST", b"/update_weights_from_disk", JSON, body=b"{}"),
    "a field missing": request(b"POST", b"/v1/images/generations", JSON, body=b"{}"),
    "no such path": request(b"GET", b"/nowhere"),
    "HTTP/1.0": request(b"GET", b"/liveness", version=b"HTTP/1.0"),
    "a wish to close": request(b"GET", b"/liveness", b"Connection: close"),
    "no request at all": b"GARBAGE\r\n\r\n",
    "a chunked body": request(b"POST", b"/v1/images/generations", JSON, b"Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n\r\n",
    "a large head": request(b"GET", b"/liveness", b"X-Large: " + b"x" * 60_000),
    "an expectation": request(b"POST", b"/v1/images/generations", JSON, b"Expect: 100-continue", body=b"{}"),
}


@pytest.mark.parametrize("raw", CONNECTIONS.values(), ids=CONNECTIONS.keys())
def test_both_treat_a_connection_alike(image_pair: Pair, raw: bytes) -> None:
    real, simulated = (exchanged(url, raw) for url in image_pair.urls)
    assert simulated == real


def exchanged(url: str, raw: bytes) -> tuple[Any, ...]:
    """Send bytes; give the reply, and whether the connection takes another request."""
    with Client(int(url.rpartition(":")[2])) as client:
        reply = client.ask(raw)
        try:
            after: int | None = client.ask(request(b"GET", b"/liveness")).status
        except (Ended, OSError):
            after = None
    return (*seen(reply), after)


def seen(reply: Reply) -> tuple[Any, ...]:
    names = [name.lower() for name, _ in reply.fields if not name.lower().startswith(b"x-sim-")]
    body = shape(reply.json()) if reply.values(b"content-type") == [b"application/json"] else reply.body
    return reply.status, reply.reason, names, [interim.status for interim in reply.interim], reply.framing, body


@pytest.mark.parametrize("path", ["/v1/realtime_video/generate", "/v1/actions/realtime", "/openpi/policy", "/nowhere"])
@pytest.mark.parametrize("message", ["{}", b"abc"])
def test_both_treat_a_websocket_alike(image_pair: Pair, path: str, message: str | bytes) -> None:
    real, simulated = (talked(url, path, message) for url in image_pair.urls)
    assert simulated == real


def talked(url: str, path: str, message: str | bytes) -> Any:
    """Open a WebSocket and say something; give the answer, or the refusal."""
    try:
        with connect(f"ws{url.removeprefix('http')}{path}") as socket:
            socket.send(message)
            return socket.recv(timeout=10.0)
    except InvalidStatus as error:
        reply = error.response
        return reply.status_code, [name for name, _ in reply.headers.raw_items()], bytes(reply.body or b"")


def test_both_go_on_alike_without_their_scheduler(image_pair: Pair) -> None:
    """The last test of these workers: only a restart helps."""
    for scheduler in psutil.Process(image_pair.real.pid).children(recursive=True):
        scheduler.kill()
    httpx2.post(f"{image_pair.simulated.url}/sim/faults", json={"scheduler_dead": True}).raise_for_status()
    for url in image_pair.urls:
        eventually_equal(lambda url=url: httpx2.get(f"{url}/health").status_code, 503)
        # the real one learns of it within a second, by looking
        eventually_equal(lambda url=url: httpx2.post(f"{url}/nowhere").status_code, 503)
    assert image_pair.differences(DEAD_PROBES) == {}


def routes(schema: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}


def fits(template: str, target: str) -> bool:
    """Tell whether a target is one of a route's: `/v1/models/{model}` fits `/v1/models/x`."""
    parts, given = template.split("/"), target.split("/")
    return len(parts) == len(given) and all(
        part == one or (part.startswith("{") and one != "") for part, one in zip(parts, given, strict=True)
    )


def fields(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give what each route takes in its target and its JSON body: types, bounds, defaults, and what is required."""
    found: dict[str, dict[str, Any]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            model = schema["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {})
            taken = {parameter["name"]: parameter["schema"] for parameter in operation.get("parameters", [])}
            taken |= model.get("properties", {})
            required = model.get("required", [])
            required += [parameter["name"] for parameter in operation.get("parameters", []) if parameter["required"]]
            found[f"{method.upper()} {path}"] = {"required": sorted(required)} | {
                name: {key: value for key, value in facts.items() if key not in {"title", "description"}}
                for name, facts in taken.items()
            }
    return found
