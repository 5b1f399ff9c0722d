"""The real engine, which `make engine` makes. To start a worker takes half a minute, so few are started."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.build import DEVICES, environment, is_complete
from engine.fleet import EngineFleet
from engine.worker import EngineWorker

LIMIT_S = 600  # of one test, in which workers load


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=DEVICES, default="cpu", help="what the real engine runs on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    device = _device(config)
    for item in items:
        if isinstance(item, pytest.Function) and "engine" in item.fixturenames:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.timeout(LIMIT_S))
            if device == "cuda":
                item.add_marker(pytest.mark.gpu)


def pytest_report_header(config: pytest.Config) -> str:
    return f"engine: on {_device(config)}, {environment(_device(config))}"


def _device(config: pytest.Config) -> str:
    return str(config.getoption("--device", default="cpu"))  # unknown when these tests are only looked through


def _gpus(config: pytest.Config) -> int:
    """Count the GPUs to use."""
    if _device(config) == "cpu" or shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], check=True, capture_output=True, text=True, timeout=30)
    return len(listed.stdout.splitlines())


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Path:
    """The folder of the environment, which must have been made."""
    device = _device(request.config)
    if device == "cuda" and _gpus(request.config) == 0:
        pytest.skip("this machine has no GPU")
    root = environment(device)
    if not is_complete(root):
        pytest.skip(f"the engine is not there: `make engine DEVICE={device}` makes it")
    return root


@pytest.fixture(scope="module")
def image_worker(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorker]:
    """A real worker with a tiny Stable Diffusion 3."""
    with EngineWorker(engine, "tiny-sd3-medium", tmp_path_factory.mktemp("engine") / "sd3") as worker:
        yield worker


@pytest.fixture(scope="module")
def video_worker(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorker]:
    """A real worker with a tiny Wan 2.1."""
    with EngineWorker(engine, "tiny-wanpipeline", tmp_path_factory.mktemp("engine") / "wan") as worker:
        yield worker


@pytest.fixture(scope="session")
def fleet(
    engine: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[EngineFleet]:
    """Two real workers with a tiny Stable Diffusion 3, started by the router."""
    with EngineFleet(engine, tmp_path_factory.mktemp("fleet"), gpus=_gpus(request.config)) as fleet:
        yield fleet
