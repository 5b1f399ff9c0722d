"""Tests of the demo's processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.demo import processes
from sglang_diffusion_routing.cli.demo.processes import RouterFailed, RouterProcess, Usage


@pytest.mark.core
def test_usage_is_read_from_the_system() -> None:
    before = Usage.of(os.getpid())
    spin_until_s = time.process_time() + 0.05
    while time.process_time() < spin_until_s:
        pass
    after = Usage.of(os.getpid())
    assert 0.02 <= after.cpu_s - before.cpu_s < 5
    assert 5e6 < after.rss_bytes <= after.peak_rss_bytes < 64e9


@pytest.mark.core
def test_workers_are_named_by_letters() -> None:
    assert [processes.name_of(index) for index in (0, 1, 15)] == ["A", "B", "P"]


@pytest.mark.e2e
def test_a_router_that_does_not_start_is_reported_and_ended(tmp_path: Path) -> None:
    router = RouterProcess(["ftp://nowhere"], tmp_path / "router.log")
    with pytest.raises(RouterFailed, match="did not start"):
        router.start()
    router.close()
    assert "--worker-urls" in (tmp_path / "router.log").read_text()


@pytest.mark.e2e
def test_everything_that_was_started_ends_with_the_block(tmp_path: Path) -> None:
    base = tmp_path / "base"
    handlers = signal.getsignal(signal.SIGTERM)
    with processes.running(2, base, tmp_path / "router.log") as fleet:
        pids = [fleet.router.pid, *(sim.pid for sim in fleet.workers)]
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        assert fleet.speeds == (1.0, 0.5)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert signal.getsignal(signal.SIGTERM) is handlers


@pytest.mark.e2e
def test_a_signal_ends_everything_too(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupted() -> None:
        with processes.running(1, tmp_path / "base", tmp_path / "router.log") as fleet:
            pids.extend([fleet.router.pid, fleet.workers[0].pid])
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        interrupted()
    assert caught.value.code == 128 + signal.SIGTERM
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
