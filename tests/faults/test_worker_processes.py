"""Real processes, killed and stopped as an operating system does it."""

import os
import signal

import pytest

from support.client import Client, request
from support.deadlines import eventually, eventually_equal
from support.router import RouterProcess
from support.worker_process import WorkerProcess

pytestmark = pytest.mark.e2e

QUICK_PROBES = ("--health-check-interval", "0.2", "--probe-timeout", "0.5", "--health-check-failure-threshold", "2")
WORK = request(b"POST", b"/rollout/generate", body=b'{"prompt":"x"}')


def test_a_killed_process_is_replaced_by_another() -> None:
    with WorkerProcess() as one, WorkerProcess() as two, RouterProcess([one.url, two.url], *QUICK_PROBES) as router:
        router.wait_until_healthy(2)
        with Client(router.port) as client:
            client.send(WORK)
            busy = eventually(router.in_flight, lambda counts: sum(counts.values()) == 1)
            victim, other = (one, two) if busy[one.url] else (two, one)
            victim.wait_for_request()
            os.kill(victim.pid, signal.SIGKILL)
            other.wait_for_request()
            other.let_answer()
            reply = client.read_reply("POST")
        assert (reply.status, reply.body) == (200, b"from a process")
        assert reply.values(b"x-sglang-router-worker") == [other.url.encode()]
        eventually_equal(router.statuses, {victim.url: "quarantined", other.url: "active"})


def test_a_stopped_process_gets_no_more_work_until_it_goes_on() -> None:
    """Its kernel accepts connections for it; only the probes tell."""
    flags = (*QUICK_PROBES, "--max-concurrency-per-worker", "0")
    with WorkerProcess() as one, WorkerProcess() as two, RouterProcess([one.url, two.url], *flags) as router:
        router.wait_until_healthy(2)
        os.kill(one.pid, signal.SIGSTOP)
        eventually_equal(router.statuses, {one.url: "quarantined", two.url: "active"})
        with Client(router.port) as client:
            for _ in range(3):
                client.send(WORK)
                two.wait_for_request()
                two.let_answer()
                assert client.read_reply("POST").status == 200
        os.kill(one.pid, signal.SIGCONT)
        eventually_equal(router.statuses, {one.url: "active", two.url: "active"})


def test_work_on_a_process_that_stands_still_for_a_while_ends_well() -> None:
    """Workers block their event loop for tens of seconds: their work is neither given up nor done twice."""
    flags = (*QUICK_PROBES, "--busy-grace", "60")
    with WorkerProcess() as one, WorkerProcess() as two, RouterProcess([one.url, two.url], *flags) as router:
        router.wait_until_healthy(2)
        with Client(router.port) as client:
            client.send(WORK)
            busy = eventually(router.in_flight, lambda counts: sum(counts.values()) == 1)
            worker, other = (one, two) if busy[one.url] else (two, one)
            worker.wait_for_request()
            os.kill(worker.pid, signal.SIGSTOP)
            os.kill(other.pid, signal.SIGSTOP)
            # The idle one is probed at the same pace: when it is out, the busy one has missed as many probes.
            eventually_equal(router.statuses, {worker.url: "active", other.url: "quarantined"})
            for process in (worker, other):
                os.kill(process.pid, signal.SIGCONT)
            worker.let_answer()
            assert client.read_reply("POST").body == b"from a process"
