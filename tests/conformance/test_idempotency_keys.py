"""A repeat of a request that is still running joins it instead of making the worker do the work twice."""

import pytest

from support.client import Connect, request
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e


def keyed(key: bytes, body: bytes = b'{"prompt":"x"}') -> bytes:
    return request(b"POST", b"/v1/images/generations", b"Idempotency-Key: " + key, body=body)


def test_a_repeat_gets_the_same_reply_from_the_same_work(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    first, repeat = connect(), connect()
    before = worker.requests
    first.send(keyed(b"k1"))
    exchange = worker.receive()
    assert exchange.values(b"idempotency-key") == [b"k1"]
    repeat.send(keyed(b"k1"))
    repeat.wait_until_read()
    # The router has handled what came after the repeat, so it has handled the repeat.
    assert router.in_flight() == {worker.url: 1}
    exchange.answer(200, b"X-Of-Work: 1", body=b"the image")
    replies = [first.read_reply("POST"), repeat.read_reply("POST")]
    assert [(reply.status, reply.body, reply.values(b"x-of-work")) for reply in replies] == [
        (200, b"the image", [b"1"]),
        (200, b"the image", [b"1"]),
    ]
    assert worker.requests == before + 1


def test_a_repeat_after_the_end_is_new_work(worker: ScriptedWorker, connect: Connect) -> None:
    client = connect()
    for number in (1, 2):
        client.send(keyed(b"k2"))
        worker.receive().answer(body=b"%d" % number)
        assert client.read_reply("POST").body == b"%d" % number


def test_different_keys_are_different_work(worker: ScriptedWorker, connect: Connect) -> None:
    clients = [connect(), connect()]
    for key, client in zip((b"k3", b"k4"), clients, strict=True):
        client.send(keyed(key))
    exchanges = [worker.receive(), worker.receive()]
    for exchange in exchanges:
        exchange.answer(body=exchange.values(b"idempotency-key")[0])
    assert [client.read_reply("POST").body for client in clients] == [b"k3", b"k4"]


def test_a_repeat_survives_the_client_that_came_first(
    router: RouterProcess, worker: ScriptedWorker, connect: Connect
) -> None:
    """The usual repeat: the trainer's connection broke, and it tries again."""
    first, repeat = connect(), connect()
    before = worker.requests
    first.send(keyed(b"k5"))
    exchange = worker.receive()
    first.reset()
    repeat.send(keyed(b"k5"))
    repeat.wait_until_read()
    assert router.in_flight() == {worker.url: 1}
    exchange.answer(body=b"the image")
    assert repeat.read_reply("POST").body == b"the image"
    assert worker.requests == before + 1
