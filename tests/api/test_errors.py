import json

import httpx2
import pytest
import structlog
from fastapi import FastAPI, Response

from sglang_diffusion_routing.api import errors
from sglang_diffusion_routing.errors import MethodNotAllowed, NoRoutableWorker, UnknownWorker

pytestmark = pytest.mark.core


def failing() -> FastAPI:
    """An application whose routes fail in all ways."""
    app = FastAPI()

    @app.get("/known")
    async def _() -> Response:
        raise NoRoutableWorker({"sleeping": 2}, retry_after_s=7)

    @app.get("/fault")
    async def _() -> Response:
        raise RuntimeError("a secret of the implementation")

    @app.get("/count")
    async def _(count: int) -> Response:
        return Response(str(count))

    @app.delete("/count")
    async def _() -> Response:
        return Response()

    errors.install(app)
    return app


async def ask(method: str, path: str) -> httpx2.Response:
    transport = httpx2.ASGITransport(failing(), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://router") as client:
        return await client.request(method, path)


async def test_an_error_of_the_router_comes_with_its_facts_and_its_headers() -> None:
    response = await ask("GET", "/known")
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert response.headers["content-type"] == "application/json"
    assert response.content == NoRoutableWorker({"sleeping": 2}).to_wire()


async def test_a_fault_says_nothing_of_its_cause_and_the_log_does() -> None:
    with structlog.testing.capture_logs() as lines:
        response = await ask("GET", "/fault")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert [(line["event"], line["path"], str(line["exc_info"])) for line in lines] == [
        ("control_request_failed", "/fault", "a secret of the implementation")
    ]


async def test_an_unknown_path_and_an_unknown_method_have_the_routers_shape() -> None:
    unknown = await ask("GET", "/nowhere")
    assert (unknown.status_code, unknown.json()) == (
        404,
        {"error": "the router has no route /nowhere", "code": "route_not_found", "path": "/nowhere"},
    )
    wrong = await ask("PUT", "/count")
    assert (wrong.status_code, wrong.headers["allow"], wrong.content) == (
        405,
        "DELETE, GET, HEAD",
        MethodNotAllowed("PUT", "").to_wire(),
    )


@pytest.mark.parametrize(
    ("query", "error"),
    [("", "'count' is required"), ("?count=x", "'count' must be a whole number")],
)
async def test_a_wrong_parameter_is_400_in_one_sentence(query: str, error: str) -> None:
    response = await ask("GET", f"/count{query}")
    assert (response.status_code, response.json()) == (
        400,
        {"error": error, "code": "invalid_field", "field": "count"},
    )


def test_an_error_without_headers_has_none_of_its_own() -> None:
    response = errors.render(UnknownWorker("x"))
    assert json.loads(bytes(response.body))["worker_id"] == "x"
    assert sorted(response.headers) == ["content-length", "content-type"]
