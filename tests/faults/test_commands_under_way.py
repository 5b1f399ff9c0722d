"""What is asked of a worker while it falls asleep, wakes or loads weights: it waits its turn, or acts at once by force.

Each test has a worker of its own, whose answers to the router's commands it holds back.
"""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from support.client import Client, Connect, request
from support.deadlines import eventually_equal
from support.exchange import Exchange, sized_reply
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

RELEASE, RESUME, REFIT = "/release_memory_occupation", "/resume_memory_occupation", "/update_weights_from_disk"
BODIES = {REFIT: b'{"model_path": "/somewhere", "weight_version": "v1"}'}
DOES = {RELEASE: "releasing", RESUME: "resuming", REFIT: "updating"}
BECOMES = {RELEASE: "sleeping", RESUME: "active", REFIT: "active"}
JSON = b"content-type: application/json"
models = count(1)


@pytest.fixture(scope="module")
def module_router() -> Iterator[RouterProcess]:
    with RouterProcess((), "--health-check-interval", "0.2", "--probe-timeout", "0.5") as router:
        yield router


class Controlled:
    """A worker behind the router, and the calls that concern it."""

    def __init__(self, router: RouterProcess, worker: ScriptedWorker, connect: Connect) -> None:
        self.router = router
        self.worker = worker
        self._connect = connect

    def begin(self, method: str, target: str, body: bytes = b"") -> Client:
        """Send a control request; its reply is read later."""
        client = self._connect()
        client.send(request(method.encode(), target.encode(), JSON, body=body))
        return client

    def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, Any]:
        reply = self.begin(method, target, body).read_reply(method)
        return reply.status, reply.json()

    def command(self, path: str) -> Client:
        """Ask the router to have the worker do something."""
        return self.begin("POST", f"{path}?selector={self.worker.url}", BODIES.get(path, b""))

    def under_way(self, path: str) -> tuple[Client, Exchange]:
        """Bring the worker to where it carries out this command; give who asked for it, and the worker's side."""
        if path == RESUME:
            asked, exchange = self.under_way(RELEASE)
            done(exchange)
            assert asked.read_reply("POST").json()["success"] is True
        asked = self.command(path)
        exchange = self.worker.receive()
        assert exchange.target == path.encode()
        assert self.status == DOES[path]
        return asked, exchange

    def register(self) -> dict[str, Any]:
        status, body = self.ask("POST", "/workers", json.dumps({"url": self.worker.url}).encode())
        assert status == 200
        return dict(body["worker"])

    def remove(self, query: str = "") -> tuple[int, Any]:
        return self.ask("DELETE", f"/workers/{self.worker.url}{query}")

    @property
    def status(self) -> str | None:
        return self.router.statuses().get(self.worker.url)

    def becomes(self, status: str | None) -> None:
        eventually_equal(lambda: self.status, status)


@pytest.fixture
def connect(module_router: RouterProcess) -> Iterator[Connect]:
    clients: list[Client] = []

    def opened() -> Client:
        clients.append(Client(module_router.port))
        return clients[-1]

    yield opened
    for client in clients:
        client.close()


@pytest.fixture
def one(module_router: RouterProcess, connect: Connect) -> Iterator[Controlled]:
    """A registered worker, alone in its weight group."""
    with ScriptedWorker(model=f"model-{next(models)}") as worker:
        worker.automatic[b"POST", b"/get_weights_checksum"] = sized_reply(404, JSON, body=b"{}")
        one = Controlled(module_router, worker, connect)
        one.register()
        yield one
        one.remove("?force=true")
        assert worker.failures == []
        assert module_router.is_running(), module_router.stderr()


def done(exchange: Exchange) -> None:
    exchange.answer(200, JSON, body=b'{"success": true, "message": "done"}')


def refused(exchange: Exchange) -> None:
    exchange.answer(400, JSON, body=b'{"success": false, "message": "no"}')


def row(client: Client) -> tuple[int, Any]:
    """Give the one row of a fan-out's reply: status and body."""
    reply = client.read_reply("POST").json()
    (result,) = reply["results"]
    return result["status_code"], result["body"]


@pytest.mark.parametrize("path", DOES)
def test_a_removal_waits_for_the_command(one: Controlled, path: str) -> None:
    asked, exchange = one.under_way(path)
    for _ in range(2):
        assert one.remove() == (202, {"status": "draining", "worker_id": one.worker.url})
    assert one.status == DOES[path]
    done(exchange)
    assert row(asked) == (200, {"success": True, "message": "done"})
    one.becomes(None)


@pytest.mark.parametrize("path", DOES)
def test_registering_the_worker_again_calls_a_removal_off_that_waits(one: Controlled, path: str) -> None:
    asked, exchange = one.under_way(path)
    one.remove()
    assert one.register()["status"] == DOES[path]
    done(exchange)
    assert row(asked)[0] == 200
    assert one.status == BECOMES[path]


@pytest.mark.parametrize("path", DOES)
def test_a_forced_removal_waits_for_nothing_and_a_late_answer_changes_nothing(one: Controlled, path: str) -> None:
    asked, exchange = one.under_way(path)
    assert one.remove("?force=true") == (200, {"status": "success", "worker_id": one.worker.url})
    assert row(asked) == (409, {"error": "superseded"})
    # Weights that may yet change belie what it was registered with; sleep is found out by work.
    assert one.register()["status"] == ("suspect" if path == REFIT else "active")
    before = one.router.get(f"/workers/{one.worker.url}")
    done(exchange)
    exchange.expect_end()
    assert one.router.get(f"/workers/{one.worker.url}") == before


def test_a_hold_waits_for_the_command_and_is_let_go_by_active(one: Controlled) -> None:
    asked, exchange = one.under_way(REFIT)
    path = f"/workers/{one.worker.url}"
    assert one.ask("PUT", path, b'{"state": "drained"}')[1]["worker"]["status"] == "updating"
    done(exchange)
    assert row(asked)[0] == 200
    one.becomes("draining")
    assert one.ask("PUT", path, b'{"state": "active"}')[1]["worker"]["status"] == "active"


@pytest.mark.parametrize(("first", "then", "last"), [(RELEASE, RESUME, "active"), (RESUME, RELEASE, "sleeping")])
def test_sleep_and_wake_wait_for_each_other(one: Controlled, first: str, then: str, last: str) -> None:
    asked, exchange = one.under_way(first)
    waiting, joined = one.command(then), one.command(then)
    done(exchange)
    assert row(asked) == (200, {"success": True, "message": "done"})
    exchange = one.worker.receive()
    assert exchange.target == then.encode()
    done(exchange)
    assert (row(waiting)[0], row(joined)[0]) == (200, 200)
    assert one.status == last


@pytest.mark.parametrize(("path", "calls"), [(RELEASE, 1), (RESUME, 2)])
def test_asked_for_twice_it_is_done_once(one: Controlled, path: str, calls: int) -> None:
    asked, exchange = one.under_way(path)
    again = one.command(path)
    done(exchange)
    assert (row(asked)[0], row(again)[0], row(one.command(path))[0]) == (200, 200, 200)
    assert (one.status, one.worker.requests) == (BECOMES[path], calls)


def test_sleep_waits_for_a_refit_and_comes_after_it(one: Controlled) -> None:
    asked, exchange = one.under_way(REFIT)
    sleep = one.command(RELEASE)
    done(exchange)
    assert row(asked)[0] == 200
    exchange = one.worker.receive()
    assert exchange.target == RELEASE.encode()
    done(exchange)
    assert row(sleep)[0] == 200
    worker = one.router.get(f"/workers/{one.worker.url}")["worker"]
    assert (worker["status"], worker["weight_version"]) == ("sleeping", "v1")


@pytest.mark.parametrize(("path", "stays"), [(RELEASE, "active"), (RESUME, "sleeping")])
def test_a_worker_that_refuses_stays_as_it_was(one: Controlled, path: str, stays: str) -> None:
    asked, exchange = one.under_way(path)
    refused(exchange)
    assert row(asked) == (400, {"success": False, "message": "no"})
    assert one.status == stays


@pytest.mark.parametrize("path", [RELEASE, RESUME])
def test_a_worker_whose_answer_is_lost_gets_no_work_until_it_is_woken(one: Controlled, path: str) -> None:
    asked, exchange = one.under_way(path)
    exchange.reset()
    assert row(asked)[0] == 502
    # Whether it sleeps nobody knows: once it answers a probe, it is put to sleep.
    exchange = one.worker.receive()
    assert exchange.target == RELEASE.encode()
    done(exchange)
    one.becomes("sleeping")
    asked, exchange = one.command(RESUME), one.worker.receive()
    done(exchange)
    assert row(asked)[0] == 200
    assert one.status == "active"


def test_an_operators_quarantine_outlasts_sleep_and_wake(one: Controlled) -> None:
    path = f"/workers/{one.worker.url}"
    asked, exchange = one.under_way(RELEASE)
    assert one.ask("PUT", path, b'{"is_dead": true}')[1]["worker"]["status"] == "quarantined"
    done(exchange)
    assert row(asked)[0] == 200
    asked, exchange = one.command(RESUME), one.worker.receive()
    done(exchange)
    assert row(asked)[0] == 200
    worker = one.router.get(path)["worker"]
    assert (worker["status"], worker["state"]) == ("quarantined", "active")
    one.ask("PUT", path, b'{"is_dead": false}')
    one.becomes("active")


def test_the_trainer_may_hang_up_and_the_worker_still_falls_asleep(one: Controlled) -> None:
    asked, exchange = one.under_way(RELEASE)
    asked.close()
    done(exchange)
    one.becomes("sleeping")


def test_probes_do_not_quarantine_a_sleeper_that_does_not_answer_them(one: Controlled) -> None:
    asked, exchange = one.under_way(RELEASE)
    done(exchange)
    assert row(asked)[0] == 200
    health = one.worker.automatic.pop((b"GET", b"/health"))
    for _ in range(4):
        probe = one.worker.receive()
        assert probe.target == b"/health"
        probe.answer(503, body=b"")
    assert one.status == "sleeping"
    one.worker.automatic[b"GET", b"/health"] = health
    assert one.router.get(f"/workers/{one.worker.url}")["worker"]["is_dead"] is False


def test_a_worker_that_was_put_to_sleep_directly_is_found_out_by_work_and_can_be_woken(one: Controlled) -> None:
    work = one.begin("POST", "/rollout/generate", b"{}")
    exchange = one.worker.receive()
    exchange.answer(500, JSON, body=b'{"detail": "Server is sleeping. Call resume_memory_occupation first."}')
    assert (work.read_reply("POST").status, one.status) == (503, "sleeping")
    asked, exchange = one.command(RESUME), one.worker.receive()
    done(exchange)
    assert row(asked)[0] == 200
    assert one.status == "active"
