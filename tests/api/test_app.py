"""What the application does beside its routes."""

import re
from types import SimpleNamespace
from typing import cast

import httpx2
import pytest

from sglang_diffusion_routing.api.app import build
from sglang_diffusion_routing.api.plane import ControlPlane
from sglang_diffusion_routing.runtime.audit import Audit

pytestmark = pytest.mark.core


async def nothing_to_save() -> bool:
    return True


async def ask(method: str, path: str) -> httpx2.Response:
    plane = SimpleNamespace(fleet=SimpleNamespace(saver=SimpleNamespace(flush=nothing_to_save)), audit=Audit())
    transport = httpx2.ASGITransport(build(cast("ControlPlane", plane)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://router") as client:
        return await client.request(method, path)


async def test_head_is_answered_as_get() -> None:
    got, head = await ask("GET", "/liveness"), await ask("HEAD", "/liveness")
    assert (head.status_code, head.headers) == (got.status_code, got.headers)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/models/..", "/redoc"])
async def test_what_no_route_has_is_404(path: str) -> None:
    assert (await ask("GET", path)).json()["code"] == "route_not_found"


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/new_weights", "fleet_route_unknown"),
        ("PUT", "/x/LoRA/y", "fleet_route_unknown"),
        ("DELETE", "/memory_occupation", "fleet_route_unknown"),
        ("GET", "/new_weights", "route_not_found"),
        ("POST", "/new_height", "route_not_found"),
    ],
)
async def test_what_looks_state_changing_is_never_guessed_at(method: str, path: str, code: str) -> None:
    assert (await ask(method, path)).json()["code"] == code


async def test_every_route_of_the_document_is_served_and_described() -> None:
    document = (await ask("GET", "/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) > 25
    assert [operation["operationId"] for operation in operations if not operation.get("description")] == []
    assert all(re.fullmatch(r"[1-5](\d\d|XX)", status) for operation in operations for status in operation["responses"])
