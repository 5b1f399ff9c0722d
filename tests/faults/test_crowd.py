"""With 5,000 connections, the queue full and bodies that trickle in, health and control answer as ever."""

import json
import resource
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self

import pytest

from support.client import Client, ask, request
from support.deadlines import eventually_equal
from support.router import RouterProcess
from support.worker import ScriptedFleet

pytestmark = pytest.mark.e2e

QUEUED, TRICKLING, IN_A_HEAD, IDLE = 2000, 1500, 500, 1000
DESCRIPTORS = 6000
NOBODY = "http://127.0.0.1:1"
"""A worker that does not answer: it is registered all the same, and gets none of the queue."""
BODY = b'{"prompt": "x"}'
WORK = request(b"POST", b"/rollout/generate", body=BODY)


class Many:
    """Connections that are nobody's thread: each sends what it is told, and what it gets is read when asked for."""

    def __init__(self, port: int, count: int, begin: bytes) -> None:
        self._stack = ExitStack()
        self.sockets = [self._stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        self.send(begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, data: bytes) -> None:
        for sock in self.sockets:
            sock.sendall(data)

    def statuses(self) -> list[int]:
        """Read a reply from each, whenever it comes."""
        found: list[int] = []
        with selectors.DefaultSelector() as selector:
            for sock in self.sockets:
                selector.register(sock, selectors.EVENT_READ)
            while len(found) < len(self.sockets):
                ready = selector.select(30)
                assert ready, f"{len(found)} of {len(self.sockets)} replies came"
                for key, _ in ready:
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    found.append(int(sock.recv(65536).split()[1]))
                    selector.unregister(sock)
        return found


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"a process may have {hard} open files here, and this takes {DESCRIPTORS}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def assert_control_answers(router: RouterProcess, fleet: ScriptedFleet) -> None:
    """Ask what operators, balancers and launchers ask."""
    assert router.get("/health")["healthy_workers"] >= len(fleet.urls)
    assert ask(router.port, request(b"GET", b"/liveness")).status == 200
    assert ask(router.port, request(b"GET", b"/readiness")).status == 429
    assert b"sgld_router_queue_requests" in ask(router.port, request(b"GET", b"/metrics")).body
    added = ask(router.port, request(b"POST", b"/workers", body=json.dumps({"url": NOBODY}).encode()))
    assert (added.status, added.json()["worker"]["url"]) == (200, NOBODY)
    removed = ask(router.port, request(b"POST", b"/remove_worker?force=true&url=" + NOBODY.encode()))
    assert removed.status == 200


def test_health_and_control_answer_while_5000_connections_hold_all_there_is() -> None:
    flags = ("--max-concurrency-per-worker", "1", "--queue-max-requests", str(QUEUED), "--client-head-timeout", "120")
    with ScriptedFleet(2) as fleet, RouterProcess(fleet.urls, *flags) as router:
        router.wait_until_healthy(2)
        half_a_body = request(b"POST", b"/rollout/generate", b"Content-Length: 100") + b"x"
        with (
            Many(router.port, 2, WORK) as running,
            Many(router.port, QUEUED, WORK) as queued,
            Many(router.port, TRICKLING, half_a_body) as trickling,
            Many(router.port, IN_A_HEAD, b"GET /health HT"),
            Many(router.port, IDLE, b""),
        ):
            held = [fleet.receive(), fleet.receive()]
            eventually_equal(router.queued, QUEUED)
            for _ in range(3):
                trickling.send(b"x")
                assert_control_answers(router, fleet)
            refused = ask(router.port, WORK)
            assert (refused.status, refused.code) == (429, "queue_full")
            dropped = ask(router.port, request(b"POST", b"/abort_request", body=b'{"all": true}'))
            assert dropped.json()["aborted"] == QUEUED
            assert set(queued.statuses()) == {499}
            for exchange in held:
                exchange.answer()
            assert running.statuses() == [200, 200]
        eventually_equal(router.queued, 0)
        router.wait_until_idle()
        with Client(router.port) as client:
            client.send(WORK)
            fleet.receive().answer(body=b"made")
            assert client.read_reply("POST").body == b"made"
        fleet.drop_arrivals()
