"""The router as a process: how it starts, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.client import Client, request
from support.deadlines import eventually
from support.router import SOURCES, RouterProcess

pytestmark = pytest.mark.e2e

WORK = request(
    b"POST",
    b"/v1/images/generations",
    b"Content-Type: application/json",
    body=b'{"prompt":"x","size":"64x64","num_inference_steps":2}',
)


def run(*flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sglang_diffusion_routing", "--host", "127.0.0.1", *flags],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PYTHONPATH": str(SOURCES), "PATH": "/usr/bin:/bin", "TMPDIR": os.environ.get("TMPDIR", "/tmp")},
    )


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files in which no other router has any."""
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_a_port_in_use_is_one_sentence(temporary: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("--port", str(port), "--log-level", "error")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"sglang-d-router: cannot listen on 127.0.0.1:{port}: the port is in use\n"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--worker-urls", "gpu-1:30000"], "must begin with http:// or https://"),
        (["--worker-urls", "http://169.254.169.254"], "is the metadata service of a cloud"),
        (
            ["--worker-urls", "http://127.0.0.1:1", "--allow-worker", "10.0.0.0/8"],
            "is not on the list of allowed workers",
        ),
    ],
)
def test_a_worker_that_may_not_be_one_is_one_sentence(flags: list[str], sentence: str) -> None:
    ended = run("--port", "0", "--log-level", "error", *flags)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert sentence in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_router_at_once_and_in_order(number: signal.Signals, temporary: Path) -> None:
    router = RouterProcess()
    try:
        assert len(list(temporary.glob("sglang-d-router-*"))) == 1
        router.signal(number)
        assert router.wait(within_s=5) == 0
        assert "Traceback" not in router.stderr()
        assert list(temporary.iterdir()) == []
    finally:
        router.stop()


def test_a_signal_lets_work_finish_refuses_new_work_and_then_ends() -> None:
    with SimInThread(SimSettings(overhead_seconds=1.0)) as worker:
        router = RouterProcess([worker.url])
        try:
            router.wait_until_healthy(1)
            with Client(router.port) as client, Client(router.port) as other:
                client.send(WORK)
                eventually(router.in_flight, lambda counts: counts[worker.url] == 1)
                other.send(request(b"GET", b"/liveness"))
                assert other.read_reply().status == 200
                router.signal(signal.SIGTERM)
                assert client.read_reply("POST").status == 200
            assert router.wait(within_s=5) == 0
            with pytest.raises(ConnectionRefusedError):
                Client(router.port)
        finally:
            router.stop()


def test_a_second_signal_ends_at_once() -> None:
    with SimInThread(SimSettings(overhead_seconds=60)) as worker:
        router = RouterProcess([worker.url])
        try:
            router.wait_until_healthy(1)
            with Client(router.port) as client:
                client.send(WORK)
                eventually(router.in_flight, lambda counts: counts[worker.url] == 1)
                router.signal(signal.SIGTERM)
                eventually(router.stderr, lambda text: "shutting_down" in text)
                router.signal(signal.SIGTERM)
                assert router.wait(within_s=5) == 0
            assert "Traceback" not in router.stderr()
        finally:
            router.stop()


def test_the_grace_is_kept() -> None:
    with SimInThread(SimSettings(overhead_seconds=60)) as worker:
        router = RouterProcess([worker.url], "--shutdown-grace", "0.3")
        try:
            router.wait_until_healthy(1)
            with Client(router.port) as client:
                client.send(WORK)
                eventually(router.in_flight, lambda counts: counts[worker.url] == 1)
                router.signal(signal.SIGTERM)
                assert router.wait(within_s=5) == 0
            assert "shutdown_grace_over" in router.stderr()
        finally:
            router.stop()


def test_a_low_limit_of_open_files_is_told() -> None:
    router = RouterProcess(open_files=256)
    try:
        assert "open_files_limit_low" in router.stderr()
    finally:
        router.stop()
