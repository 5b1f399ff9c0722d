"""A route that changes a worker's state is never relayed to one worker of many, however it is spelt."""

import pytest

from support.client import ask, request
from support.exchange import Exchange
from support.router import RouterProcess
from support.worker import ScriptedWorker, sized_reply

pytestmark = pytest.mark.e2e

UNKNOWN = [
    b"/update_weights_from_distributed",
    b"/update%5fweights_from_distributed",
    b"//update_weights_from_distributed",
    b"/x/../update_weights_from_distributed",
    b"/update_weights_from_distributed/",
    b"/update_weights_from_distributed;a=b",
    b"/init_weights_update_group",
    b"/v1/load_lora_adapter",
    b"/v1/unload_l%6fra_adapter",
    b"/x/release_memory_occupation_of_all",
    b"http://router.test/update_weights_from_distributed",
]

KNOWN = [
    b"/update_weights_from_disk",
    b"/update_weights_from_tensor",
    b"/release_memory_occupation",
    b"/resume_memory_occupation",
    b"/v1/set_lora",
    b"/v1/merge_lora_weights",
    b"/v1/unmerge_lora_weights",
]

ODD_SPELLINGS = [
    b"/%75pdate_weights_from_disk",
    b"//update_weights_from_disk",
    b"/x/../update_weights_from_disk",
    b"/update_weights_from_disk/",
    b"/update_weights_from_disk;a=b",
    b"/release%5Fmemory%5Foccupation",
    b"/./release_memory_occupation",
    b"/v1//set_lora",
    b"/v1/set%5flora",
    b"http://router.test/release_memory_occupation",
]

REFUSAL = sized_reply(400, b"Content-Type: application/json", body=b'{"success": false, "message": "no"}')


@pytest.fixture
def relayed(worker: ScriptedWorker) -> list[bytes]:
    """What the worker was asked; it refuses everything and has the same weights for ever."""
    seen: list[bytes] = []

    def refuse(exchange: Exchange) -> None:
        seen.append(exchange.target)
        exchange.answer_raw(REFUSAL)

    worker.automatic[(b"POST", b"/get_weights_checksum")] = sized_reply(
        200, b"Content-Type: application/json", body=b'{"transformer": "c0ffee"}'
    )
    worker.handler = refuse
    return seen


@pytest.mark.parametrize("target", UNKNOWN, ids=bytes.decode)
@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE"], ids=bytes.decode)
def test_an_unknown_one_is_refused_and_told_how(
    method: bytes, target: bytes, router: RouterProcess, relayed: list[bytes]
) -> None:
    reply = ask(router.port, request(method, target, b"Content-Type: application/json", body=b"{}"))
    assert reply.status == 501, reply
    assert reply.code == "fleet_route_unknown"
    assert "?selector=" in reply.json()["error"]
    assert relayed == []


@pytest.mark.parametrize("target", KNOWN, ids=bytes.decode)
@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"DELETE"], ids=bytes.decode)
def test_a_known_one_with_another_method_is_refused(
    method: bytes, target: bytes, router: RouterProcess, relayed: list[bytes]
) -> None:
    reply = ask(router.port, request(method, target, b"Content-Type: application/json", body=b"{}"))
    assert reply.status in {404, 405, 501}, reply
    assert relayed == []


@pytest.mark.parametrize("target", ODD_SPELLINGS, ids=bytes.decode)
def test_a_known_one_is_a_fan_out_in_every_spelling(target: bytes, router: RouterProcess, relayed: list[bytes]) -> None:
    """The workers may be asked, by the router and by the route's own name; this request itself goes to none."""
    reply = ask(router.port, request(b"POST", target, b"Content-Type: application/json", body=b'{"model_path": "/m"}'))
    assert reply.body != b'{"success": false, "message": "no"}'
    assert set(relayed) <= set(KNOWN)
