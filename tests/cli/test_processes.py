"""Tests of the processes that commands start."""

import os
import signal
import time
from pathlib import Path

import httpx2
import pytest

from sglang_diffusion_routing.cli.processes import RouterFailed, RouterProcess, Usage, ending, start_workers
from sglang_diffusion_routing.sim.process import SimFailedToStart, SimProcess


@pytest.mark.core
def test_usage_is_read_from_the_system() -> None:
    before = Usage.of(os.getpid())
    spin_until_s = time.process_time() + 0.05
    while time.process_time() < spin_until_s:
        pass
    after = Usage.of(os.getpid())
    assert 0.02 <= after.cpu_s - before.cpu_s < 5
    assert 5e6 < after.rss_bytes <= after.peak_rss_bytes < 64e9


@pytest.mark.e2e
def test_a_router_that_does_not_start_is_reported_and_ended(tmp_path: Path) -> None:
    router = RouterProcess(["ftp://nowhere"], tmp_path / "router.log")
    with pytest.raises(RouterFailed, match="did not start"):
        router.start()
    router.close()
    assert "--worker-urls" in (tmp_path / "router.log").read_text()


@pytest.mark.e2e
def test_the_settings_of_the_shell_are_another_router_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_D_ROUTER_API_KEY", "secret")
    monkeypatch.setenv("SGLANG_D_ROUTER_QUEUE_TIMEOUT", "no time")
    router = RouterProcess([], tmp_path / "router.log")
    try:
        router.start()
        assert httpx2.get(f"{router.url}/workers").status_code == 200
    finally:
        router.close()


@pytest.mark.e2e
def test_workers_that_started_end_when_another_does_not_start() -> None:
    good, bad = SimProcess(), SimProcess(host="203.0.113.1")
    with pytest.raises(SimFailedToStart), ending() as stack:
        start_workers(stack, [good, bad])
    assert good.returncode is not None


@pytest.mark.core
def test_a_second_signal_does_not_cut_the_clean_up_short() -> None:
    cleaned: list[str] = []

    def clean() -> None:
        signal.raise_signal(signal.SIGINT)
        cleaned.append("whole")

    def interrupted() -> None:
        with ending() as stack:
            stack.callback(clean)
            signal.raise_signal(signal.SIGINT)

    handlers = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert cleaned == ["whole"]
    assert signal.getsignal(signal.SIGINT) is handlers
