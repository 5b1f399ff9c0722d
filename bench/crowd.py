"""How much slower health and control answer while 5,000 connections fill the queue: `python bench/run.py crowd`."""

import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import contestants
from measures import CLIENT_S, Run, backend, running
from processes import Failed
from report import Row

QUEUED, HALF_SENT, IDLE = 2000, 2000, 1000
CALLS = 300
LIMIT = 3.0
WORK = b"POST /generate HTTP/1.1\r\nHost: router\r\nContent-Length: 2\r\n\r\n{}"
HALF = b"POST /generate HTTP/1.1\r\nHost: router\r\nContent-Length: 100\r\n\r\n{"
CALLED = {
    "GET /health": ("GET", "/health", None),
    "GET /workers": ("GET", "/workers", None),
    "POST /workers": ("POST", "/workers", json.dumps({"url": "http://127.0.0.1:1"})),
}


def crowd(run: Run) -> list[Row]:
    """The 99th percentile of each call beside a crowd over that on a router that nobody else asks anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < QUEUED + HALF_SENT + IDLE + 500:
        raise Failed(f"crowd: a process may have {hard} open files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flags = ("--no-state", "--queue-max-requests", str(QUEUED))
    try:
        with backend(run, 1) as workers:
            start = partial(contestants.router, run.folder, workers, *flags)
            with running(run, [start]) as ((entry,), _):
                called(entry.port, 20)
                return rows(entry.port, run.rounds)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def rows(port: int, rounds: int) -> list[Row]:
    """Measure alone and beside the crowd in turn, so that what disturbs the machine disturbs both."""
    alone: dict[str, list[float]] = {name: [] for name in CALLED}
    beside: dict[str, list[float]] = {name: [] for name in CALLED}
    for _ in range(rounds):
        for name, seconds in called(port, CALLS).items():
            alone[name] += seconds
        with crowded(port):
            for name, seconds in called(port, CALLS).items():
                beside[name] += seconds
    found = []
    for name in CALLED:
        before, during = p99_ms(alone[name]), p99_ms(beside[name])
        values = {"alone": before, f"beside {QUEUED + HALF_SENT + IDLE:,} connections": during}
        note = f"{QUEUED} requests wait, {HALF_SENT} bodies have half come, {IDLE} connections do nothing"
        unit, figure_is = "milliseconds, 99th percentile", "beside / alone"
        found.append(Row(f"{name} in a crowd", unit, values, during / before, figure_is, LIMIT, note=note))
    return found


def p99_ms(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1e3


def called(port: int, count: int) -> dict[str, list[float]]:
    """Make each call so many times on a connection of its own; give the seconds of each."""
    found: dict[str, list[float]] = {}
    for name, (method, path, body) in CALLED.items():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CLIENT_S)
        taken = found[name] = []
        for _ in range(count):
            began_s = time.perf_counter()
            connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            taken.append(time.perf_counter() - began_s)
            if reply.status != 200:
                raise Failed(f"crowd: {name} was answered {reply.status}")
        connection.close()
    return found


@contextmanager
def crowded(port: int) -> Iterator[None]:
    """Hold the queue, fill it, and keep the other connections open; at the end nothing of that is left."""
    with ExitStack() as stack:
        control(port, "/pause_generation")
        for count, begin in ((QUEUED, WORK), (HALF_SENT, HALF), (IDLE, b"")):
            for _ in range(count):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=CLIENT_S))
                sock.sendall(begin)
        wait_for_queue(port, QUEUED)
        yield
    wait_for_queue(port, 0)
    control(port, "/continue_generation")


def wait_for_queue(port: int, requests: int) -> None:
    """Wait until so many requests wait."""
    deadline_s = time.monotonic() + CLIENT_S
    while (queued := control(port, "/workers", "GET")["queue"]["requests"]) != requests:
        if time.monotonic() > deadline_s:
            raise Failed(f"crowd: {queued} requests wait, and not {requests}")
        time.sleep(0.05)


def control(port: int, path: str, method: str = "POST") -> dict:
    """Make one call of the control API and decode the reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CLIENT_S)
    try:
        connection.request(method, path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()
