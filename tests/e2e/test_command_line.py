"""The router's command as a person runs it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing.sim.process import SimProcess
from support.router import RouterProcess

pytestmark = pytest.mark.e2e

SOURCES = Path(__file__).resolve().parents[2] / "src"


def command(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sglang_diffusion_routing", *words],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(SOURCES), **environ},
    )


def test_the_version_is_told() -> None:
    told = command("--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"sglang-d-router {__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["demo", "--help"], ["sim", "--help"]])
def test_every_command_explains_itself(words: list[str]) -> None:
    told = command(*words, COLUMNS="60")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("usage: sglang-d-router")


@pytest.mark.parametrize(
    ("words", "environ", "sentence"),
    [
        (["--prot", "1"], {}, "--prot is no flag of sglang-d-router; did you mean --port?"),
        (["--port", "70000"], {}, "--port must be at most 65535, not 70000"),
        (["--worker-urls", "ftp://a"], {}, "--worker-urls worker URL 'ftp://a' must begin with http:// or https://"),
        (["--worker-urls", "http://169.254.169.254"], {}, None),
        (["--config", "/nowhere.yaml"], {}, "/nowhere.yaml cannot be read: No such file or directory"),
        ([], {"SGLANG_D_ROUTER_PORT": "many"}, "SGLANG_D_ROUTER_PORT must be a whole number, not 'many'"),
        (["launch"], {}, "'launch' is no command; --help lists them"),
        (["serve", "http://a:1"], {}, "'http://a:1' is one word too many"),
    ],
)
def test_a_bad_setting_ends_with_status_2_and_one_sentence(
    words: list[str], environ: dict[str, str], sentence: str | None
) -> None:
    told = command(*words, **environ)
    assert (told.returncode, told.stdout) == (2, "")
    (line,) = told.stderr.splitlines()
    assert line.startswith("sglang-d-router: ")
    assert sentence is None or line == f"sglang-d-router: {sentence}"


def test_a_taken_port_ends_with_status_1_and_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = command("--host", "127.0.0.1", "--port", str(port), "--log-level", "error")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"sglang-d-router: cannot listen on 127.0.0.1:{port}: the port is in use\n"


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    with SimProcess() as worker:
        config = tmp_path / "router.yaml"
        config.write_text(f"worker_urls: [{worker.url}]\nlog_format: json\n")
        with RouterProcess([], "--config", str(config)) as router:
            router.wait_until_healthy(1)
            assert list(router.in_flight()) == [worker.url]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_router_well(number: signal.Signals) -> None:
    with RouterProcess() as router:
        assert httpx2.get(f"http://127.0.0.1:{router.port}/liveness").status_code == 200
        router.signal(number)
        assert router.wait() == 0
        assert "Traceback" not in router.stderr()
