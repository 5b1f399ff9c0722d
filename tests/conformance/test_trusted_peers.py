"""X-Forwarded-* of a proxy that the operator trusts are kept and carried on."""

from collections.abc import Iterator

import pytest

from support.client import Client, request
from support.exchange import Exchange
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def router(module_worker: ScriptedWorker) -> Iterator[RouterProcess]:
    with RouterProcess([module_worker.url], "--trusted-peers", "127.0.0.0/8") as router:
        router.wait_until_healthy(1)
        yield router


def relayed(worker: ScriptedWorker, client: Client, *fields: bytes) -> Exchange:
    client.send(request(b"GET", b"/x", *fields))
    exchange = worker.receive()
    exchange.answer()
    assert client.read_reply().status == 200
    return exchange


def test_the_chain_of_addresses_is_carried_on(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"X-Forwarded-For: 6.6.6.6, 7.7.7.7")
    assert b", ".join(exchange.values(b"x-forwarded-for")) == b"6.6.6.6, 7.7.7.7, 127.0.0.1"


def test_scheme_and_host_are_kept(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"X-Forwarded-Proto: https", b"X-Forwarded-Host: public.test")
    assert exchange.values(b"x-forwarded-proto") == [b"https"]
    assert exchange.values(b"x-forwarded-host") == [b"public.test"]


def test_what_is_missing_is_made(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client)
    assert exchange.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert exchange.values(b"x-forwarded-proto") == [b"http"]
    assert exchange.values(b"x-forwarded-host") == [b"router.test"]


def test_the_routers_own_fields_are_not_believed_even_so(worker: ScriptedWorker, client: Client) -> None:
    exchange = relayed(worker, client, b"X-Sglang-Router-Peer: 6.6.6.6:1")
    assert exchange.values(b"x-sglang-router-peer") == []
