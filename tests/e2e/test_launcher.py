"""`sglang-d-router --launcher-config`: what a person who starts it sees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import ask, request
from support.deadlines import eventually, eventually_equal
from support.launching import SIMULATED, Marked, launcher_file, marked
from support.router import SOURCES, RouterProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

COMMAND = [sys.executable, "-m", "sglang_diffusion_routing", "--host", "127.0.0.1", "--port", "0"]


@pytest.fixture
def mark() -> Iterator[Marked]:
    with marked() as mark:
        yield mark


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    return subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=60, check=False, env=environment)


def ports(router: RouterProcess) -> set[int]:
    return {int(slot["worker_id"].rpartition(":")[2]) for slot in router.get("/launcher")["slots"]}


def image(router: RouterProcess) -> int:
    body = json.dumps({"prompt": "x", "size": "64x64", "num_inference_steps": 1}).encode()
    reply = ask(router.port, request(b"POST", b"/v1/images/generations", b"Content-Type: application/json", body=body))
    return int(reply.status)


def test_a_file_is_all_that_is_needed(tmp_path: Path, mark: Marked) -> None:
    file = launcher_file(tmp_path, num_workers=2, worker_env=mark.env)
    with RouterProcess((), "--launcher-config", str(file)) as router:
        workers = router.get("/workers")["workers"]
        assert [worker["status"] for worker in workers] == ["active", "active"]
        assert {worker["launcher"]["phase"] for worker in workers} == {"ready"}
        assert image(router) == 200
        assert sorted(log.name for log in (tmp_path / "logs").iterdir()) == sorted(
            f"worker-{port}.log" for port in ports(router)
        )
    assert mark.alive == set()


def test_two_routers_may_start_at_once_from_one_file(tmp_path: Path, mark: Marked) -> None:
    file = launcher_file(tmp_path, num_workers=2, worker_env=mark.env)
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    started = [
        subprocess.Popen(
            [*COMMAND, "--launcher-config", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for _ in range(2)
    ]
    try:
        found = []
        for router in started:
            assert router.stdout is not None
            port = int(router.stdout.readline().rpartition(b":")[2])
            listed: Any = ask(port, request(b"GET", b"/launcher")).json()
            found += [slot["worker_id"] for slot in listed["slots"]]
        assert len(set(found)) == 4
    finally:
        for router in started:
            router.terminate()
        for router in started:
            router.communicate(timeout=30)
    assert mark.alive == set()


def test_with_min_ready_traffic_starts_early(tmp_path: Path, mark: Marked) -> None:
    engine = tmp_path / "engine"
    engine.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--help*) exec "$@";; esac\n'
        f'mkdir {tmp_path}/first 2>/dev/null && exec "$@"\n'
        'exec "$@" --warmup-seconds 1000\n'
    )
    engine.chmod(0o755)
    file = launcher_file(tmp_path, num_workers=2, worker_env=mark.env, worker_command=[str(engine), *SIMULATED])
    with RouterProcess((), "--launcher-config", str(file), "--min-ready", "1", "--shutdown-grace", "5") as router:
        assert sorted(slot["phase"] for slot in router.get("/launcher")["slots"]) == ["loading", "ready"]
        assert image(router) == 200
    eventually_equal(lambda: mark.alive, set())


def test_workers_that_do_not_come_up_end_the_router_with_the_last_lines_of_a_log(tmp_path: Path, mark: Marked) -> None:
    command = [sys.executable, "-c", "import sys; print('loading shard 1 of 2'); sys.exit('CUDA out of memory')"]
    file = launcher_file(tmp_path, worker_command=command, restart_limit=2, restart_delay=0, worker_env=mark.env)
    ended = run("--launcher-config", str(file), "--log-level", "error")
    (log,) = (log for log in (tmp_path / "logs").iterdir() if log.suffix == ".log")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.splitlines()[-4:] == [
        "sglang-d-router: 0 of 1 workers are ready, and the others died too often; worker 0 ended with status 1",
        f"the last lines of its log ({log}):",
        "  | loading shard 1 of 2",
        "  | CUDA out of memory",
    ]


def test_workers_that_take_too_long_end_the_router(tmp_path: Path, mark: Marked) -> None:
    file = launcher_file(
        tmp_path, worker_command=[*SIMULATED, "--warmup-seconds", "1000"], wait_timeout=4, worker_env=mark.env
    )
    ended = run("--launcher-config", str(file), "--log-level", "error")
    assert ended.returncode == 3
    assert "0 of 1 workers are ready, and the others did not come up within 4 s; worker 0 " in ended.stderr
    assert mark.alive == set()


@pytest.mark.parametrize(("stage", "processes"), [("its help is asked", 2), ("models load", 4)])
def test_ctrl_c_before_the_router_is_up_ends_everything(
    tmp_path: Path, mark: Marked, stage: str, processes: int
) -> None:
    engine = tmp_path / "engine"
    asked = "sleep 1000" if stage == "its help is asked" else "exit 0"
    engine.write_text(f'#!/bin/sh\ncase "$*" in *--help*) {asked};; esac\nexec "$@" --warmup-seconds 1000\n')
    engine.chmod(0o755)
    # The engine's help is asked in the router's own environment, before any worker has one.
    environment = {**os.environ, **mark.env, "PYTHONPATH": str(SOURCES)}
    file = launcher_file(tmp_path, num_workers=2, worker_command=[str(engine), *SIMULATED], worker_env=mark.env)
    router = subprocess.Popen(
        [*COMMAND, "--launcher-config", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    eventually(lambda: len(mark.alive - {router.pid}), lambda number: number >= processes, within_s=40)
    router.send_signal(signal.SIGINT)
    said, logged = router.communicate(timeout=20)
    assert (router.returncode, said) == (0, b"")
    assert b"Traceback" not in logged
    eventually_equal(lambda: mark.alive, set())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "launcher:\n  model: m\n  num_worker: 2\n",
            "line 3 'num_worker' is no setting of a launcher; did you mean num_workers?",
        ),
        ("launcher:\n  num_workers: 2\n", "line 1: model is missing"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "launcher.yaml"
    file.write_text(text)
    ended = run("--launcher-config", str(file), "--log-level", "error")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"sglang-d-router: {file} {sentence}\n")


def test_too_few_gpus_are_one_sentence(tmp_path: Path) -> None:
    file = launcher_file(tmp_path, num_workers=64, num_gpus_per_worker=1)
    ended = run("--launcher-config", str(file), "--log-level", "error")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("sglang-d-router: launcher wants 64 GPUs, 1 for each of 64 workers, and ")
