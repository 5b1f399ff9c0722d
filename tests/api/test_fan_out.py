import dataclasses
from typing import cast

import pytest

from sglang_diffusion_routing.api.fan_out import read_fan_out
from sglang_diffusion_routing.api.plane import ControlPlane
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.errors import InvalidField
from support.asgi import request_of
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core


@dataclasses.dataclass
class Plane:
    fleet: RecordingFleet


@pytest.fixture
async def plane() -> ControlPlane:
    fleet = RecordingFleet()
    fleet.join("http://a:1")
    fleet.join("http://b:1")
    return cast("ControlPlane", Plane(fleet))


async def test_the_workers_get_what_is_not_the_routers(plane: ControlPlane) -> None:
    headers = [(b"content-type", b"a/b"), (b"cookie", b"c"), (b"x-sglang-router-peer", b"p"), (b"connection", b"close")]
    request = request_of("PUT", "/p%2Fq", query=b"x=%20&selector=http://b:1&timeout_s=2", headers=headers)
    fan_out = read_fan_out(request, plane)
    assert (fan_out.method, fan_out.target, fan_out.headers) == ("PUT", "/p%2Fq?x=%20", {"content-type": "a/b"})
    assert ([worker.worker_id for worker in fan_out.workers], fan_out.timeout_s) == (["http://b:1"], 2.0)


async def test_only_those_that_are_named_are_named(plane: ControlPlane) -> None:
    named = read_fan_out(request_of(query=b"selector=http://b:1"), plane)
    assert (named.only, read_fan_out(request_of(), plane).only) == ({"http://b:1"}, None)


async def test_without_a_selector_it_is_for_all(plane: ControlPlane) -> None:
    fan_out = read_fan_out(request_of(path="/x"), plane)
    assert (len(fan_out.workers), fan_out.timeout_s, fan_out.target) == (2, None, "/x")


@pytest.mark.parametrize("query", [b"mode=drain", b"refit=part", b"max_unavailable=1", b"x=1&admit=new"])
async def test_a_parameter_of_refits_has_a_meaning_only_there(plane: ControlPlane, query: bytes) -> None:
    with pytest.raises(InvalidField, match="has no meaning on this route"):
        read_fan_out(request_of(query=query), plane)
    assert len(read_fan_out(request_of(query=query), plane, is_refit=True).own) == 1


async def test_the_body_is_taken_in_as_it_is(plane: ControlPlane) -> None:
    request = request_of(body=[b"a", b"bc"], headers=[(b"content-type", b"a/b")])
    outgoing = await read_fan_out(request, plane).outgoing(request, if_empty=b"{}")
    with outgoing.body as body:
        assert b"".join([chunk async for chunk in body.chunks()]) == b"abc"
    assert outgoing.headers == {"content-type": "a/b"}


async def test_no_body_is_made_up_for_where_workers_need_one(plane: ControlPlane) -> None:
    request = request_of(headers=[(b"content-type", b"text/plain")])
    outgoing = await read_fan_out(request, plane).outgoing(request, if_empty=b"{}")
    with outgoing.body as body:
        assert b"".join([chunk async for chunk in body.chunks()]) == b"{}"
    assert outgoing.headers == {"content-type": "application/json"}


async def test_a_body_that_breaks_off_leaves_nothing_behind(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Spool] = []

    def close(spool: Spool) -> None:
        closed.append(spool)

    monkeypatch.setattr(Spool, "close", close)

    async def broken() -> None:
        raise ConnectionResetError

    request = request_of()
    request._receive = broken  # type: ignore[assignment]
    with pytest.raises(ConnectionResetError):
        await read_fan_out(request, plane).outgoing(request)
    assert len(closed) == 1
