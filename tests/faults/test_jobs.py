"""A job holds its lease until it has ended, and stays with the worker that made it."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.client import Client, Connect, ask, request
from support.deadlines import eventually, eventually_equal
from support.exchange import Exchange, sized_reply
from support.router import RouterProcess
from support.worker import ScriptedFleet, ScriptedWorker

pytestmark = pytest.mark.e2e

JSON = b"Content-Type: application/json"
UNKNOWN = sized_reply(404, JSON, body=b'{"detail":"Video not found"}')
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def module_fleet() -> Iterator[ScriptedFleet]:
    with ScriptedFleet(2, tasks=["T2I", "T2V"]) as fleet:
        yield fleet


def say(worker: ScriptedWorker, job_id: str, status: str) -> None:
    """Let the worker answer so when it is asked about the job."""
    body = json.dumps({"id": job_id, "object": "video", "status": status}).encode()
    worker.automatic[(b"GET", f"/v1/videos/{job_id}".encode())] = sized_reply(200, JSON, body=body)


def create(fleet: ScriptedFleet, connect: Connect, answer: bytes | None = None) -> tuple[str, Exchange]:
    """Create a job; give its id and the exchange that made it."""
    job_id = f"job-{next(numbers)}"
    with connect() as client:
        client.send(request(b"POST", b"/v1/videos", JSON, body=b'{"prompt":"x"}'))
        exchange = fleet.receive()
        say(exchange.worker, job_id, "in_progress")
        for worker in fleet.workers:
            if worker is not exchange.worker:
                worker.automatic[(b"GET", f"/v1/videos/{job_id}".encode())] = UNKNOWN
        body = answer or json.dumps({"id": job_id, "object": "video", "status": "queued"}).encode()
        exchange.answer(200, JSON, body=body.replace(b"ID", job_id.encode()))
        reply = client.read_reply("POST")
        assert (reply.status, reply.body) == (200, body.replace(b"ID", job_id.encode()))
    return job_id, exchange


def jobs(router: RouterProcess) -> dict[str, int]:
    return {worker["url"]: worker["jobs"] for worker in router.get("/workers")["workers"]}


def test_a_job_holds_its_lease_until_it_has_ended(
    router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    job_id, made = create(fleet, connect)
    charged = {worker.url: int(worker is made.worker) for worker in fleet.workers}
    assert router.in_flight() == charged
    assert jobs(router) == charged
    say(made.worker, job_id, "completed")
    router.wait_until_idle()
    assert jobs(router) == dict.fromkeys(fleet.urls, 0)


@pytest.mark.parametrize("status", ["failed", "cancelled", "completed"])
def test_every_end_of_a_job_frees_its_lease(
    status: str, router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    job_id, made = create(fleet, connect)
    say(made.worker, job_id, status)
    # The client's own question tells the router as well, before it asks by itself.
    assert ask(router.port, request(b"GET", f"/v1/videos/{job_id}".encode())).json()["status"] == status
    router.wait_until_idle()


def test_jobs_spread_by_what_runs_and_not_by_what_was_answered(
    router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    made = [create(fleet, connect) for _ in range(6)]
    assert sorted(router.in_flight().values()) == [3, 3]
    for job_id, exchange in made:
        say(exchange.worker, job_id, "completed")
        assert ask(router.port, request(b"GET", f"/v1/videos/{job_id}".encode())).status == 200
    router.wait_until_idle()


@pytest.mark.parametrize(
    "answer",
    [b'{"id":"ID"}', b'{"video_id":"ID"}', b'{"job_id": "ID"}', b'{"object":"x","data":{"id":"ID"}}'],
    ids=bytes.decode,
)
def test_the_owner_is_learnt_from_every_form_of_the_reply(
    answer: bytes, router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    job_id, made = create(fleet, connect, answer)
    del made.worker.automatic[(b"GET", f"/v1/videos/{job_id}".encode())]
    with connect() as client:
        client.send(request(b"GET", f"/v1/videos/{job_id}/content".encode(), b"Range: bytes=0-3"))
        exchange = fleet.receive()
        assert exchange.worker is made.worker
        assert exchange.values(b"range") == [b"bytes=0-3"]
        exchange.answer(206, b"Content-Range: bytes 0-3/10", body=b"ftyp")
        reply = client.read_reply()
        assert (reply.status, reply.body) == (206, b"ftyp")
    say(made.worker, job_id, "completed")
    router.wait_until_idle()


def test_a_job_that_was_deleted_holds_its_lease_until_a_later_call_has_come_through(
    router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    """The engine does not stop for a DELETE."""
    job_id, made = create(fleet, connect)
    del made.worker.automatic[(b"GET", f"/v1/videos/{job_id}".encode())]
    with connect() as client:
        client.send(request(b"DELETE", f"/v1/videos/{job_id}".encode()))
        exchange = fleet.receive()
        assert (exchange.worker, exchange.method) == (made.worker, b"DELETE")
        exchange.answer(200, JSON, body=json.dumps({"id": job_id, "deleted": True}).encode())
        assert client.read_reply("DELETE").status == 200
    barrier = fleet.receive()
    assert (barrier.worker, barrier.target) == (made.worker, b"/stats")
    assert router.in_flight()[made.worker.url] == 1
    barrier.answer(200, JSON, body=b"{}")
    router.wait_until_idle()


def test_the_death_of_its_worker_frees_a_job(router: RouterProcess, fleet: ScriptedFleet, connect: Connect) -> None:
    job_id, made = create(fleet, connect)
    made.worker.die()
    eventually_equal(router.in_flight, dict.fromkeys(fleet.urls, 0))
    reply = ask(router.port, request(b"GET", f"/v1/videos/{job_id}".encode()))
    assert (reply.status, reply.code) == (503, "owner_unavailable")
    assert int(reply.values(b"retry-after")[0]) >= 1


def test_an_id_that_nobody_knows_is_a_404(router: RouterProcess, fleet: ScriptedFleet) -> None:
    for worker in fleet.workers:
        worker.automatic[(b"GET", b"/v1/videos/nobody-knows")] = UNKNOWN
    reply = ask(router.port, request(b"GET", b"/v1/videos/nobody-knows"))
    assert (reply.status, reply.code) == (404, "unknown_job")


def test_an_id_that_only_a_worker_knows_is_found(router: RouterProcess, fleet: ScriptedFleet) -> None:
    first, second = fleet.workers
    first.automatic[(b"GET", b"/v1/videos/from-before")] = UNKNOWN
    say(second, "from-before", "completed")
    reply = ask(router.port, request(b"GET", b"/v1/videos/from-before"))
    assert (reply.status, reply.json()["status"]) == (200, "completed")


def test_the_owner_that_was_removed_is_named() -> None:
    with ScriptedFleet(2, tasks=["T2V"]) as fleet, RouterProcess(fleet.urls) as router:
        router.wait_until_healthy(2)
        job_id, made = create(fleet, lambda: Client(router.port))
        say(made.worker, job_id, "completed")
        assert ask(router.port, request(b"GET", f"/v1/videos/{job_id}".encode())).status == 200
        router.wait_until_idle()
        removed = ask(router.port, request(b"DELETE", f"/workers/{made.worker.url}".encode()))
        assert removed.status == 200, removed
        eventually(lambda: list(router.in_flight()), lambda urls: made.worker.url not in urls)
        reply = ask(router.port, request(b"GET", f"/v1/videos/{job_id}".encode()))
        assert (reply.status, reply.code) == (410, "job_owner_gone")
        assert made.worker.url in reply.json()["error"]


def test_a_job_that_outlives_its_router_holds_a_lease_of_the_next_one(tmp_path: Path) -> None:
    flags = ("--state", str(tmp_path / "state.db"))
    with ScriptedFleet(1, tasks=["T2V"]) as fleet:
        with RouterProcess(fleet.urls, *flags) as router:
            router.wait_until_healthy(1)
            job_id, made = create(fleet, lambda: Client(router.port))
            router.kill()
        with RouterProcess((), *flags) as again:
            assert again.in_flight() == jobs(again) == {made.worker.url: 1}
            removal = ask(again.port, request(b"DELETE", f"/workers/{made.worker.url}".encode()))
            assert (removal.status, removal.json()["status"]) == (202, "draining")
            reply = ask(again.port, request(b"GET", f"/v1/videos/{job_id}".encode()))
            assert (reply.status, reply.json()["status"]) == (200, "in_progress")
            assert again.in_flight() == {made.worker.url: 1}
            say(made.worker, job_id, "completed")
            eventually_equal(again.in_flight, {})
            reply = ask(again.port, request(b"GET", f"/v1/videos/{job_id}".encode()))
            assert (reply.status, reply.code) == (410, "job_owner_gone")
        fleet.drop_arrivals()


def test_a_creation_that_fails_makes_no_job(router: RouterProcess, fleet: ScriptedFleet, connect: Connect) -> None:
    client = connect()
    client.send(request(b"POST", b"/v1/videos", JSON, body=b"{"))
    fleet.receive().answer(400, JSON, body=b'{"detail":"Invalid JSON"}')
    assert client.read_reply("POST").status == 400
    router.wait_until_idle()


def test_the_creator_may_leave_without_its_job_being_forgotten(
    router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    job_id = f"job-{next(numbers)}"
    client = connect()
    client.send(request(b"POST", b"/v1/videos", JSON, body=b'{"prompt":"x"}'))
    exchange = fleet.receive()
    _ = exchange.body
    client.reset()
    say(exchange.worker, job_id, "in_progress")
    exchange.answer(200, JSON, body=json.dumps({"id": job_id, "status": "queued"}).encode())
    eventually_equal(lambda: jobs(router), {worker.url: int(worker is exchange.worker) for worker in fleet.workers})
    say(exchange.worker, job_id, "completed")
    router.wait_until_idle()
