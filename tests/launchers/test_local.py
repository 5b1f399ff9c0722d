"""Tests of workers on this machine: the commands, ports and GPUs that they get."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from launchers.processes import python
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers.config import LauncherConfig
from sglang_diffusion_routing.launchers.local import LocalBackend, default_log_dir
from sglang_diffusion_routing.launchers.process import WorkerProcess

pytestmark = pytest.mark.loopback

SHOW = """
import json, os, sys
if "--help" in sys.argv:
    print("  --strict-ports")
else:
    print(json.dumps([sys.argv[1:], os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("EXTRA")]))
"""


class Backends:
    """Backends of one test, each with ports of its own range unless it says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[LocalBackend] = []

    async def __call__(self, environ: dict[str, str] | None = None, **keys: object) -> LocalBackend:
        # Below the range from which the system takes ports for connections.
        wanted = {"model": "m", "worker_base_port": 27_000, "worker_command": python(SHOW), "num_gpus_per_worker": 0}
        config = LauncherConfig.model_validate({**wanted, **keys})
        backend = LocalBackend(config, {**os.environ, **(environ or {})}, self.folder / "logs")
        self._made.append(backend)
        await backend.prepare()
        return backend

    async def close(self) -> None:
        for backend in self._made:
            await backend.aclose()


@pytest.fixture
async def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backends]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    backends = Backends(tmp_path)
    yield backends
    await backends.close()


async def shown(worker: WorkerProcess) -> tuple[list[str], str | None, str | None]:
    async with asyncio.timeout(20):
        ended = await worker.wait()
    assert ended.reason == "ended with status 0", ended
    arguments, gpus, extra = json.loads(ended.tail[-1])
    return arguments, gpus, extra


def value_of(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


async def test_a_worker_is_called_as_the_file_says(backend: Backends) -> None:
    local = await backend(
        num_workers=2,
        num_gpus_per_worker=2,
        worker_gpu_ids=["0,1", "2,3"],
        worker_extra_args="--dit-cpu-offload false",
        worker_env={"EXTRA": "yes"},
        internal_port_stride=50,
        master_port_base=27_500,
        scheduler_port_base=27_700,
    )
    assert (local.slots, local.keeps_url) == (2, True)
    worker = await local.launch(1)
    arguments, gpus, extra = await shown(worker)
    port = value_of(arguments, "--port")
    assert arguments == [
        "--model-path", "m", "--num-gpus", "2", "--host", "127.0.0.1", "--port", port,
        "--master-port", value_of(arguments, "--master-port"),
        "--scheduler-port", value_of(arguments, "--scheduler-port"),
        "--strict-ports", "--dit-cpu-offload", "false",
    ]  # fmt: skip
    assert 27_002 <= int(port) < 27_500
    assert 27_550 <= int(value_of(arguments, "--master-port")) < 27_600
    assert 27_750 <= int(value_of(arguments, "--scheduler-port")) < 27_800
    assert (gpus, extra) == ("2,3", "yes")
    assert worker.url == f"http://127.0.0.1:{port}"
    assert worker.log == str(backend.folder / "logs" / f"worker-{port}.log")
    assert dict(worker.facts()) == {"gpus": "2,3"}


async def test_an_engine_without_gpus_is_told_of_none(backend: Backends) -> None:
    local = await backend(environ={"CUDA_VISIBLE_DEVICES": "5"})
    arguments, gpus, _ = await shown(await local.launch(0))
    assert "--num-gpus" not in arguments
    assert gpus == "5"


async def test_a_slot_keeps_its_ports(backend: Backends) -> None:
    local = await backend()
    first, second = [await shown(await local.launch(0)) for _ in range(2)]
    assert first == second


async def test_two_routers_with_one_file_have_different_ports(backend: Backends) -> None:
    ports = set()
    for _ in range(2):
        local = await backend(num_workers=2)
        for slot in range(2):
            arguments, *_ = await shown(await local.launch(slot))
            for flag in ("--port", "--master-port", "--scheduler-port"):
                ports.add(value_of(arguments, flag))
    assert len(ports) == 12


async def test_ports_beyond_the_last_are_one_sentence(backend: Backends) -> None:
    with pytest.raises(BadSetting) as caught:
        await backend(num_workers=3, master_port_base=64_000)
    assert caught.value.message == "launcher finds no free port for worker 2 from 66000 on (master_port_base)"


async def test_too_few_gpus_are_one_sentence(backend: Backends) -> None:
    with pytest.raises(
        BadSetting, match="launcher wants 8 GPUs, 1 for each of 8 workers, and CUDA_VISIBLE_DEVICES names 1"
    ):
        await backend(environ={"CUDA_VISIBLE_DEVICES": "0"}, num_workers=8, num_gpus_per_worker=1)


async def test_a_worker_that_listens_everywhere_is_asked_here(backend: Backends) -> None:
    local = await backend(worker_host="0.0.0.0")
    worker = await local.launch(0)
    arguments, *_ = await shown(worker)
    assert value_of(arguments, "--host") == "0.0.0.0"
    assert worker.url.startswith("http://127.0.0.1:")


async def test_an_ipv6_host_has_brackets_in_the_url_alone(backend: Backends) -> None:
    local = await backend(worker_host="::1")
    worker = await local.launch(0)
    arguments, *_ = await shown(worker)
    assert value_of(arguments, "--host") == "::1"
    assert worker.url.startswith("http://[::1]:")


async def test_the_simulated_worker_can_be_launched(backend: Backends) -> None:
    local = await backend(worker_command=[sys.executable, "-m", "sglang_diffusion_routing", "sim"])
    worker = await local.launch(0)
    async with asyncio.timeout(30):
        while not any("sim worker ready on" in line for line in worker.tail(5)):
            assert worker.pid is not None, worker.tail(20)
            await asyncio.sleep(0.02)
    assert worker.tail(1) == (f"sim worker ready on {worker.url}",)
    assert (await worker.terminate(20)).reason == "was killed by SIGTERM"  # uvicorn raises it again at its end


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_STATE_HOME": "/state"}, "/state/sglang-d-router/workers"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.local/state/sglang-d-router/workers"),
    ],
)
def test_logs_are_kept_where_state_is(environ: dict[str, str], folder: str) -> None:
    assert default_log_dir(environ) == Path(folder)


@pytest.mark.parametrize("command", ["no-such-engine serve", "/no/such/engine serve", "/etc/passwd serve"])
async def test_an_engine_that_is_not_there_is_told_at_once(backend: Backends, command: str) -> None:
    with pytest.raises(BadSetting) as caught:
        await backend(worker_command=command)
    assert caught.value.message == (
        f"launcher finds no program {command.split(maxsplit=1)[0]!r}: install the engine, or set worker_command"
    )


async def test_an_engine_may_be_on_the_path_of_the_workers(backend: Backends, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "my-engine").symlink_to("/bin/true")
    made = await backend(worker_command="my-engine", worker_env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    worker = await made.launch(0)
    async with asyncio.timeout(20):
        assert (await worker.wait()).reason == "ended with status 0"
