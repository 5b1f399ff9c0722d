"""The process that ends with another one."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.integrations import serving
from support.client import ask, request
from support.deadlines import PATIENCE_S
from support.router import LISTENING, SOURCES, START_S

FREE_PORT = {"host": "127.0.0.1", "port": 0}


class Child:
    """The module as a process, whose standard input the test holds."""

    def __init__(self, told: bytes, folder: Path) -> None:
        self.stderr = folder / "stderr"
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", serving.__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(SOURCES), "XDG_STATE_HOME": str(folder)},
            )
        assert self.process.stdin is not None
        self.process.stdin.write(told)
        self.process.stdin.flush()

    def port(self) -> int:
        """Wait until it listens."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(START_S, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                if found := LISTENING.search(line.decode()):
                    return int(found[1])
        finally:
            watchdog.cancel()
        raise AssertionError(self.stderr.read_text())

    def let_go(self) -> int:
        """Close its standard input and give its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.process.kill()
        child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.mark.e2e
def test_it_serves_as_it_is_told_until_its_input_ends(tmp_path: Path, children: list[Child]) -> None:
    told = json.dumps({**FREE_PORT, "max_concurrency_per_worker": 7, "queue_timeout": "3s"}).encode() + b"\n"
    children.append(child := Child(told, tmp_path))
    port = child.port()
    assert ask(port, request(b"GET", b"/health")).status == 503
    assert child.let_go() == 0
    assert "shutting_down" in child.stderr.read_text()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"queue_timout": 3}, "queue_timout is no setting of the router; did you mean queue_timeout?"),
        ({"zzz": 3}, "zzz is no setting of the router"),
        ({"port": "high"}, "--port must be a whole number, not 'high'"),
    ],
)
def test_a_bad_setting_ends_it_with_one_sentence(
    told: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serving.serve(told) == 2
    assert capsys.readouterr().err == f"sglang-d-router: {said}\n"


@pytest.mark.core
def test_settings_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_D_ROUTER_PORT", "1")
    monkeypatch.setenv("SGLANG_D_ROUTER_SEED", "5")
    settings = serving.read({"port": 2, "worker_urls": ["http://gpu-1:10090/"], "ramp": False, "timeout": None})
    assert (settings.port, settings.seed, settings.ramp, settings.timeout_s) == (2, 5, False, None)
    assert settings.worker_urls == ("http://gpu-1:10090",)


@pytest.mark.core
def test_no_input_is_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(serving, "serve", lambda given: seen.append(given) or 0)
    monkeypatch.setattr(serving, "end_with", seen.append)
    with Path(os.devnull).open("rb") as nothing:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(nothing))
        assert serving.main() == 0
    assert seen[1] == {}


@pytest.mark.core
def test_a_bad_setting_is_named() -> None:
    with pytest.raises(BadSetting) as caught:
        serving.read({"portt": 1})
    assert caught.value.message == "portt is no setting of the router; did you mean port?"
