"""A router that follows a list of workers, as a process, over lists that change, fail and outlive it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.client import Client, ask, request
from support.deadlines import eventually, eventually_equal
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e
FAST = ("--discover-interval", "0.02", "--health-check-interval", "0.2")


def name(path: Path, *workers: ScriptedWorker) -> None:
    """Put a list into place whole, and as if it had been there for a minute."""
    new = path.with_suffix(".new")
    new.write_text("".join(f"{worker.url}\n" for worker in workers))
    then_s = new.stat().st_mtime - 60.0
    os.utime(new, (then_s, then_s))
    new.rename(path)


def call(router: RouterProcess, method: bytes, target: str, body: object = None) -> Any:
    content = b"" if body is None else json.dumps(body).encode()
    reply = ask(router.port, request(method, target.encode(), b"Content-Type: application/json", body=content))
    assert reply.status < 300, reply
    return reply.json()


def test_a_list_adds_and_drains_its_own_workers_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "workers"
    with ScriptedWorker() as first, ScriptedWorker() as second, ScriptedWorker() as other:
        name(path, first)
        with RouterProcess([other.url], "--discover", f"file:{path}", *FAST) as router:
            eventually_equal(router.statuses, {other.url: "active", first.url: "active"})
            assert _labels(router) == {other.url: {}, first.url: {"discovered": f"file:{path}"}}
            name(path, second)
            eventually_equal(router.statuses, {other.url: "active", second.url: "active"})
            name(path, other)
            eventually_equal(router.statuses, {other.url: "active"})
            name(path, first)
            eventually_equal(router.statuses, {other.url: "active", first.url: "active"})


def test_every_address_of_a_name_is_a_worker() -> None:
    with ScriptedWorker() as worker, RouterProcess((), "--discover", f"dns://localhost:{worker.port}", *FAST) as router:
        statuses = eventually(router.statuses, lambda seen: seen.get(worker.url) == "active")
        labels = {"discovered": f"dns://localhost:{worker.port}"}
        assert _labels(router) == dict.fromkeys(statuses, labels)


def test_a_worker_that_is_no_longer_named_ends_its_work(tmp_path: Path) -> None:
    path = tmp_path / "workers"
    with ScriptedWorker() as first, ScriptedWorker() as second:
        name(path, first)
        with RouterProcess((), "--discover", f"file:{path}", *FAST) as router:
            eventually_equal(router.statuses, {first.url: "active"})
            with Client(router.port) as client:
                client.send(request(b"POST", b"/v1/images/generations", body=b"{}"))
                exchange = first.receive()
                name(path, second)
                eventually_equal(router.statuses, {first.url: "draining", second.url: "active"})
                exchange.answer(body=b"done")
                assert client.read_reply().body == b"done"
            eventually_equal(router.statuses, {second.url: "active"})


def test_a_list_that_breaks_removes_nobody(tmp_path: Path) -> None:
    path = tmp_path / "workers"
    with ScriptedWorker() as first, ScriptedWorker() as second:
        name(path, first)
        with RouterProcess((), "--discover", f"file:{path}", "--log-format", "json", *FAST) as router:
            eventually_equal(router.statuses, {first.url: "active"})
            for number, breaks in enumerate((lambda: name(path), path.unlink), 1):
                breaks()
                eventually(router.stderr, lambda text, n=number: text.count('"workers_not_discovered"') == n)
                name(path, first, second)
                eventually(router.stderr, lambda text, n=number: text.count('"workers_discovered_again"') == n)
                assert first.url in router.statuses()


def test_a_router_that_was_killed_lets_go_of_whom_the_list_dropped_meanwhile(tmp_path: Path) -> None:
    path, state = tmp_path / "workers", str(tmp_path / "state.db")
    flags = ("--discover", f"file:{path}", "--state", state, *FAST)
    with ScriptedWorker() as first, ScriptedWorker() as second, ScriptedWorker() as other:
        name(path, first, second)
        with RouterProcess((), *flags) as router:
            call(router, b"POST", "/workers", {"url": other.url})
            eventually_equal(lambda: set(router.statuses()), {first.url, second.url, other.url})
            router.kill()
        name(path, second)
        with RouterProcess((), *flags) as router:
            eventually_equal(router.statuses, {second.url: "active", other.url: "active"})


def _labels(router: RouterProcess) -> dict[str, dict[str, str]]:
    return {worker["url"]: worker["labels"] for worker in router.get("/workers")["workers"]}
