"""Workers that a router has started, killed at bad moments: they come back on current weights, or nothing is left.

Whole routers and simulated workers as processes, as a person starts them.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.client import ask, request
from support.deadlines import eventually, eventually_equal
from support.launching import SIMULATED, Marked, family, launcher_file, marked
from support.router import RouterProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

START_S = 40.0
QUICK = ("--health-check-interval", "0.3", "--health-check-failure-threshold", "1", "--shutdown-grace", "5")
IMAGE = {"prompt": "a lighthouse", "size": "64x64", "num_inference_steps": 2, "seed": 1, "response_format": "b64_json"}


@pytest.fixture
def mark() -> Iterator[Marked]:
    with marked() as mark:
        yield mark


def start(folder: Path, mark: Marked, *flags: str, **keys: object) -> RouterProcess:
    file = launcher_file(folder, worker_env=mark.env, **keys)
    return RouterProcess((), "--launcher-config", str(file), *QUICK, *flags)


def post(router: RouterProcess, path: str, body: object) -> tuple[int, Any]:
    content = json.dumps(body).encode()
    reply = ask(router.port, request(b"POST", path.encode(), b"Content-Type: application/json", body=content))
    return reply.status, reply.json()


def slots(router: RouterProcess) -> list[dict[str, Any]]:
    return list(router.get("/launcher")["slots"])


def phases(router: RouterProcess) -> list[str]:
    return [slot["phase"] for slot in slots(router)]


def until(router: RouterProcess, *wanted: str) -> None:
    eventually_equal(lambda: phases(router), list(wanted), within_s=START_S)


def until_served(router: RouterProcess, urls: set[str]) -> None:
    eventually(router.statuses, lambda shown: shown == dict.fromkeys(urls, "active"), within_s=START_S)


def restarted(router: RouterProcess, slot: int, times: int = 1) -> dict[str, Any]:
    """Wait until a slot's worker is another and serves."""
    shown = eventually(
        lambda: slots(router)[slot],
        lambda shown: shown["restarts"] == times and shown["phase"] == "ready",
        within_s=START_S,
    )
    return dict(shown)


def test_nothing_is_left_of_a_router_that_is_killed(tmp_path: Path, mark: Marked) -> None:
    with start(tmp_path, mark, num_workers=2, worker_command=family(tmp_path)) as router:
        assert len(mark.alive) == 2 * (1 + 1 + 3)
        router.kill()
        eventually_equal(lambda: mark.alive, set())


def test_nothing_is_left_of_a_router_that_is_killed_while_its_workers_load(tmp_path: Path, mark: Marked) -> None:
    command = [*family(tmp_path), "--warmup-seconds", "1000"]
    with start(tmp_path, mark, "--min-ready", "0", num_workers=2, worker_command=command) as router:
        until(router, "loading", "loading")
        router.kill()
        eventually_equal(lambda: mark.alive, set())


def test_what_a_killed_router_and_its_killed_guardians_left_is_swept_by_the_next(tmp_path: Path, mark: Marked) -> None:
    with start(tmp_path, mark, worker_command=family(tmp_path)) as router:
        guardian = int(Path(f"/proc/{slots(router)[0]['pid']}/stat").read_text().rpartition(")")[2].split()[1])
        for pid in (router.pid, guardian):
            os.kill(pid, signal.SIGSTOP)  # so that neither notices the other's end
        for pid in (guardian, router.pid):
            os.kill(pid, signal.SIGKILL)
        router.wait()
        left = eventually(lambda: mark.alive, lambda pids: len(pids) == 3)
    with start(tmp_path, mark) as after:
        assert not left & mark.alive
        assert "leftovers_killed" in after.stderr()


def test_a_worker_that_is_killed_comes_back_on_current_weights(tmp_path: Path, mark: Marked) -> None:
    with start(tmp_path, mark, num_workers=2) as router:
        urls = {slot["worker_id"] for slot in slots(router)}
        until_served(router, urls)
        body = {"model_path": "sim/step-1", "weight_version": "step-1"}
        assert post(router, "/update_weights_from_disk", body)[0] == 200
        _, before = post(router, "/get_weights_checksum", {})
        assert before["consistent"] is True
        os.kill(slots(router)[0]["pid"], signal.SIGKILL)
        after = restarted(router, 0)
        assert after["worker_id"] in urls
        until_served(router, urls)
        shown = router.get("/workers")["workers"]
        assert {worker["weight_version"] for worker in shown} == {"step-1"}
        _, now = post(router, "/get_weights_checksum", {})
        assert {row["body"]["transformer"] for row in now["results"]} == {
            row["body"]["transformer"] for row in before["results"]
        }


def test_a_worker_that_is_killed_at_work_costs_the_client_time_alone(tmp_path: Path, mark: Marked) -> None:
    command = [*SIMULATED, "--overhead-seconds", "0.5"]
    with start(tmp_path, mark, num_workers=2, worker_command=command) as router:
        before = {slot["worker_id"]: slot for slot in slots(router)}
        with ThreadPoolExecutor(2) as pool:
            replies = [pool.submit(post, router, "/v1/images/generations", IMAGE) for _ in range(2)]
            counts = eventually(router.in_flight, lambda counts: sum(counts.values()) == 2)
            busy = next(url for url, count in counts.items() if count)
            os.kill(before[busy]["pid"], signal.SIGKILL)
            assert [reply.result()[0] for reply in replies] == [200, 200]
        restarted(router, before[busy]["slot"])


def test_a_worker_whose_scheduler_died_alone_is_replaced(tmp_path: Path, mark: Marked) -> None:
    with start(tmp_path, mark) as router:
        (slot,) = slots(router)
        port = int(slot["worker_id"].rpartition(":")[2])
        body = json.dumps({"scheduler_dead": True}).encode()
        assert ask(port, request(b"POST", b"/sim/faults", b"Content-Type: application/json", body=body)).status == 200
        after = restarted(router, 0)
        assert after["pid"] != slot["pid"]
        until_served(router, {slot["worker_id"]})
        assert post(router, "/v1/images/generations", IMAGE)[0] == 200


def test_a_crash_loop_ends_in_a_clear_state(tmp_path: Path, mark: Marked) -> None:
    with start(tmp_path, mark, num_workers=2, restart_delay=0, restart_limit=3) as router:
        for times in (1, 2):
            os.kill(slots(router)[0]["pid"], signal.SIGKILL)
            restarted(router, 0, times)
        os.kill(slots(router)[0]["pid"], signal.SIGKILL)
        until(router, "crash_looping", "ready")
        assert slots(router)[0]["reason"] == "was killed by SIGKILL"
        assert "sim worker ready on" in " ".join(slots(router)[0]["tail"])
        assert post(router, "/v1/images/generations", IMAGE)[0] == 200
        url = slots(router)[0]["worker_id"]
        assert post(router, f"/workers/{url}/start", {})[0] == 202
        until(router, "ready", "ready")
        until_served(router, {slot["worker_id"] for slot in slots(router)})


def test_nothing_is_restarted_while_the_fleet_sleeps(tmp_path: Path, mark: Marked) -> None:
    with start(tmp_path, mark, num_workers=2) as router:
        urls = {slot["worker_id"] for slot in slots(router)}
        assert post(router, "/release_memory_occupation", {})[0] == 200
        os.kill(slots(router)[0]["pid"], signal.SIGKILL)
        until(router, "waiting", "ready")
        status, error = post(router, f"/workers/{slots(router)[0]['worker_id']}/restart", {})
        assert (status, error["code"]) == (409, "conflict")
        assert slots(router)[0]["pid"] is None
        post(router, "/resume_memory_occupation", {})
        until(router, "ready", "ready")
        until_served(router, urls)
        assert post(router, "/v1/images/generations", IMAGE)[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_workers_with_the_router(tmp_path: Path, mark: Marked, number: signal.Signals) -> None:
    with start(tmp_path, mark, num_workers=2, worker_command=family(tmp_path)) as router:
        router.signal(number)
        assert router.wait(within_s=15) == 0
        assert mark.alive == set()
        assert "workers_ended" in router.stderr()


def test_a_second_signal_does_not_wait_for_workers_that_hold_on(tmp_path: Path, mark: Marked) -> None:
    engine = tmp_path / "engine"
    engine.write_text(
        '#!/bin/sh\ncase "$*" in *--help*) exec "$@";; esac\ntrap \'\' TERM\n"$@"\nwhile :; do sleep 1; done\n'
    )
    engine.chmod(0o755)
    command = [str(engine), *SIMULATED]
    with start(tmp_path, mark, worker_command=command, stop_timeout=1000) as router:
        router.signal(signal.SIGTERM)
        eventually(router.stderr, lambda text: "shutting_down" in text)
        router.signal(signal.SIGTERM)
        assert router.wait(within_s=15) == 0
        assert mark.alive == set()


def test_a_worker_that_is_replaced_loses_no_request(tmp_path: Path, mark: Marked) -> None:
    with start(tmp_path, mark, num_workers=2) as router:
        url = slots(router)[0]["worker_id"]
        assert post(router, f"/workers/{url}/restart", {})[0] == 202
        statuses = set()
        while slots(router)[0]["restarts"] == 0 or phases(router)[0] != "ready":
            statuses.add(post(router, "/v1/images/generations", IMAGE)[0])
        assert statuses == {200}
