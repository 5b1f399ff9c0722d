"""Tests of the demo's processes."""

import signal
from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.demo import processes


@pytest.mark.core
def test_workers_are_named_by_letters() -> None:
    assert [processes.name_of(index) for index in (0, 1, 15)] == ["A", "B", "P"]


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
