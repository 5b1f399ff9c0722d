"""With few file descriptors the router goes on serving those who are in, and does not spin."""

import threading
import time

import pytest

from support.client import Client, Crowd, request
from support.deadlines import eventually, eventually_equal
from support.exchange import Exchange
from support.router import RouterProcess
from support.worker import ScriptedWorker, echo_target

pytestmark = pytest.mark.e2e

LIMIT = 96


def test_a_router_short_of_descriptors_serves_on_and_recovers() -> None:
    with ScriptedWorker() as worker, RouterProcess([worker.url], open_files=LIMIT) as router:
        worker.handler = echo_target
        router.wait_until_healthy(1)
        with Client(router.port) as inside:
            assert inside.ask(request(b"GET", b"/before")).status == 200
            with Crowd() as crowd:
                for _ in range(2 * LIMIT):
                    crowd.join(router.port)
                eventually(router.open_files, lambda count: count > LIMIT // 2)
                assert inside.ask(request(b"GET", b"/during")).status == 200
                assert busy_share(router) < 0.5
            eventually(router.open_files, lambda count: count < LIMIT // 2)
            assert inside.ask(request(b"GET", b"/after")).status == 200
        with Client(router.port) as late:
            assert late.ask(request(b"GET", b"/late")).status == 200
        assert router.is_running()


def busy_share(router: RouterProcess) -> float:
    """Measure how much of one core the router uses while nothing is asked of it."""
    begun_s, cpu_s = time.monotonic(), router.cpu_s()
    return eventually(
        lambda: (time.monotonic() - begun_s, router.cpu_s() - cpu_s),
        lambda spent: spent[0] > 0.5,
    )[1] / (time.monotonic() - begun_s)


def test_work_that_finds_no_descriptor_is_told_so_and_leaves_no_lease() -> None:
    """Connections to workers need descriptors as well."""
    flags = ("--max-concurrency-per-worker", "0")
    with ScriptedWorker() as worker, RouterProcess([worker.url], *flags, open_files=LIMIT) as router:
        router.wait_until_healthy(1)
        may_answer = threading.Event()

        def answer(exchange: Exchange) -> None:
            may_answer.wait()
            echo_target(exchange)

        worker.handler = answer
        with Crowd() as clients:
            # All of them are in, and ten descriptors are left for as many workers' connections.
            while router.open_files() < LIMIT - 10:
                assert clients.join(router.port).ask(request(b"GET", b"/liveness")).status == 200
            for client in clients:
                client.send(request(b"POST", b"/rollout/generate", body=b"x"))
            eventually_equal(lambda: worker.requests + sum(client.has_bytes() for client in clients), len(clients))
            may_answer.set()
            statuses = {client.read_reply("POST").status for client in clients}
        assert 200 in statuses
        assert statuses - {200} <= {502, 503}
        assert statuses != {200}
        eventually(router.open_files, lambda count: count < LIMIT // 2)
        router.wait_until_idle()
        with Client(router.port) as late:
            assert late.ask(request(b"POST", b"/rollout/generate", body=b"x")).status == 200
