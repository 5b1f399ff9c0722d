"""Tests of what is written down of a request for a change."""

from collections.abc import Mapping
from typing import cast

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sglang_diffusion_routing.api.audited import PATH_MAX_CHARS, Audited
from sglang_diffusion_routing.runtime.audit import Audit, Fact

pytestmark = pytest.mark.core


class Taken(Audit):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Mapping[str, Fact]] = []

    def changed(self, facts: Mapping[str, Fact]) -> None:
        self.records.append({name: value for name, value in facts.items() if name != "took_s"})


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    assert await request.body() in {b"", b"prompt"}
    await Response(status_code=409)(scope, receive, send)


async def ask(method: str, target: str, *, app: object = answer) -> list[Mapping[str, Fact]]:
    taken = Taken()
    transport = httpx2.ASGITransport(Audited(cast("Starlette", app), taken), raise_app_exceptions=False)
    headers = {
        "x-request-id": "r-1",
        "x-sglang-router-peer": "192.0.2.7:5",
        "x-forwarded-for": "198.51.100.1, 192.0.2.7",
        "x-sglang-router-key": "admin:1a2b3c4d",
        "authorization": "Bearer secret",
    }
    async with httpx2.AsyncClient(transport=transport, base_url="http://router") as client:
        await client.request(method, target, headers=headers, content=b"prompt" if method == "POST" else None)
    return taken.records


async def test_who_asked_for_what_and_how_it_ended_is_written() -> None:
    assert await ask("POST", "/workers/http%3A%2F%2Fa%3A1/drain?token=x") == [
        {
            "method": "POST",
            "path": "/workers/http%3A%2F%2Fa%3A1/drain",
            "request_id": "r-1",
            "peer": "192.0.2.7:5",
            "forwarded_for": "198.51.100.1, 192.0.2.7",
            "key": "admin:1a2b3c4d",
            "status": 409,
        }
    ]


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/workers"), ("HEAD", "/metrics"), ("OPTIONS", "/workers"), ("GET", "/events"), ("GET", "/v1/models")],
)
async def test_whoever_only_looks_leaves_no_record(method: str, target: str) -> None:
    assert await ask(method, target) == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/workers/a"),
        ("DELETE", "/%77orkers/a"),
        ("GET", "/server_info?selector=all"),
        ("POST", "/nowhere_lora"),
    ],
)
async def test_all_that_may_change_something_leaves_one(method: str, target: str) -> None:
    assert [record["path"] for record in await ask(method, target)] == [target.partition("?")[0]]


async def test_a_request_that_breaks_off_is_written_without_a_status() -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("broken")

    assert [record["status"] for record in await ask("POST", "/pause_generation", app=broken)] == [0]


async def test_a_record_has_a_bound() -> None:
    (record,) = await ask("DELETE", "/workers/" + "x" * 9000)
    assert len(str(record["path"])) == PATH_MAX_CHARS
