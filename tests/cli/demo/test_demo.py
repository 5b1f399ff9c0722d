"""Tests of the demo's exit status; tests/e2e runs all of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_diffusion_routing.cli import demo
from sglang_diffusion_routing.cli.demo.checks import Verdict
from sglang_diffusion_routing.cli.demo.loop import CallFailed
from sglang_diffusion_routing.cli.processes import RouterFailed

pytestmark = pytest.mark.core


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replace the processes and the loop; `outcome` is what the loop gives or raises."""
    parts = SimpleNamespace(outcome=Verdict(), ended=False)

    @contextmanager
    def running(workers: int, model_path: Path, log: Path) -> Iterator[Any]:
        try:
            yield SimpleNamespace(router=SimpleNamespace(url="http://127.0.0.1:1"), start_s=1.0)
        finally:
            parts.ended = True

    class Loop:
        def __init__(self, *parts: object) -> None: ...

        async def run(self, base_checksum: str) -> Verdict:
            if isinstance(parts.outcome, BaseException):
                raise parts.outcome
            verdict: Verdict = parts.outcome
            return verdict

    monkeypatch.setattr(demo, "running", running)
    monkeypatch.setattr(demo, "Loop", Loop)
    return parts


def test_the_status_is_0_when_every_claim_holds(played: SimpleNamespace, tmp_path: Path) -> None:
    assert demo.run(["--out", str(tmp_path)]) == 0
    assert played.ended


def test_the_status_is_1_when_a_claim_does_not_hold(played: SimpleNamespace, tmp_path: Path) -> None:
    played.outcome = Verdict(broken=["not true that all is well: no"])
    assert demo.run(["--out", str(tmp_path)]) == 1


@pytest.mark.parametrize("error", [CallFailed("no answer"), RouterFailed("no answer")])
def test_the_status_is_1_when_the_loop_cannot_go_on(
    played: SimpleNamespace, tmp_path: Path, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    played.outcome = error
    assert demo.run(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "failed     no answer",
        f"log        {tmp_path / 'router.log'}",
    ]
    assert played.ended


def test_an_interrupt_ends_the_processes_and_passes_on(played: SimpleNamespace, tmp_path: Path) -> None:
    played.outcome = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        demo.run(["--out", str(tmp_path)])
    assert played.ended


def test_what_lay_in_the_folder_before_is_left_alone(played: SimpleNamespace, tmp_path: Path) -> None:
    own = tmp_path / "checkpoints" / "step-1" / "model.safetensors"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    assert demo.run(["--out", str(tmp_path)]) == 0
    assert own.read_bytes() == b"mine"
