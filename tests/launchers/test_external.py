"""Workers that a command stands for, with real processes: shells that start simulated workers, end, and leave some."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from launchers.processes import alive, end
from sglang_diffusion_routing.launchers import external as module
from sglang_diffusion_routing.launchers.base import Ended, LaunchFailed
from sglang_diffusion_routing.launchers.config import LauncherConfig
from sglang_diffusion_routing.launchers.external import ExternalBackend
from support.client import ask, request
from support.deadlines import eventually
from support.router import SOURCES, RouterProcess

pytestmark = pytest.mark.loopback

READY_S = 60.0
METADATA = "169.254.169.254"
IS_METADATA = f"has an address ({METADATA}) that is the metadata service of a cloud"


class Backends:
    """Backends of one test. mark: in the environment of all that they start."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"mark-{os.getpid()}-{folder.name}"
        self._folder = folder
        self._made: list[ExternalBackend] = []

    async def __call__(self, command: str, **keys: object) -> ExternalBackend:
        wanted = {"backend": "external", "model": "m", "command": ["sh", "-c", command], "log_dir": str(self._folder)}
        config = LauncherConfig.model_validate({**wanted, "worker_env": {"MARK": self.mark}, **keys})
        backend = ExternalBackend(config, os.environ, self._folder)
        self._made.append(backend)
        await backend.prepare()
        return backend

    async def close(self) -> None:
        for backend in self._made:
            await backend.aclose()
        end(self.mark)


@pytest.fixture
async def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backends]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    backends = Backends(tmp_path)
    yield backends
    await backends.close()


async def test_a_command_is_filled_in_for_each_worker(backend: Backends) -> None:
    shows = "echo {index} {model} {gpus} {host} {port} {master_port} {scheduler_port}"
    external = await backend(
        shows, num_workers=2, num_gpus_per_worker=4, worker_host="10.0.0.1", url="http://gpu-{index}:{port}"
    )
    workers = [await external.launch(slot) for slot in range(external.slots)]
    ended = [await worker.wait() for worker in workers]
    assert [worker.url for worker in workers] == ["http://gpu-0:10090", "http://gpu-1:10092"]
    assert ended == [
        Ended("ended with status 0", ("0 m 4 10.0.0.1 10090 30005 5555",)),
        Ended("ended with status 0", ("1 m 4 10.0.0.1 10092 31005 6555",)),
    ]
    assert external.keeps_url


async def test_a_url_may_be_what_the_command_says(backend: Backends) -> None:
    says = "echo starting; echo 'listening on http://GPU-7:81/ now'; exec sleep 1000"
    external = await backend(says, url_pattern=r"^listening on (\S+)")
    worker = await external.launch(0)
    assert (worker.url, external.keeps_url) == ("http://gpu-7:81", False)
    assert (await worker.terminate(10.0)).reason == "was killed by SIGTERM"


async def test_half_a_line_is_not_taken_for_a_url(
    backend: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, go, looks = tmp_path / "external-0-10090.log", tmp_path / "go", 0
    beginning = module._beginning

    def looked(log: Path) -> str:
        nonlocal looks
        looks += log.read_text() == "http://gpu-1:3"
        return beginning(log)

    monkeypatch.setattr(module, "_beginning", looked)
    says = f"printf http://gpu-1:3; until test -e {go}; do sleep 0.05; done; echo 0000; exec sleep 1000"
    external = await backend(says, url_pattern=r"(http://\S+)")
    launching = asyncio.ensure_future(external.launch(0))
    await asyncio.to_thread(eventually, lambda: looks > 1 or launching.done(), bool)
    go.touch()
    worker = await launching
    assert worker.url == "http://gpu-1:30000"
    assert log.read_text() == "http://gpu-1:30000\n"
    await worker.terminate(10.0)


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("echo no such partition >&2; exit 3", "ended with status 3 before it said its URL"),
        (
            f"echo url=http://{METADATA}; exec sleep 1000",
            f"has no URL that can be used: worker URL 'http://{METADATA}' {IS_METADATA}",
        ),
    ],
)
async def test_a_command_that_gives_no_url_has_failed_and_nothing_of_it_is_left(
    backend: Backends, says: str, reason: str
) -> None:
    external = await backend(says, url_pattern="url=(.*)")
    with pytest.raises(LaunchFailed) as caught:
        await external.launch(0)
    assert caught.value.ended.reason == reason
    assert len(caught.value.ended.tail) == 1
    assert not alive(backend.mark)


async def test_a_launch_that_is_called_off_leaves_nothing(backend: Backends) -> None:
    external = await backend("sleep 1000 & echo started; exec sleep 1000", url_pattern="(never)")
    launching = asyncio.ensure_future(external.launch(0))
    await asyncio.to_thread(eventually, lambda: len(alive(backend.mark)), lambda number: number >= 3)
    launching.cancel()
    await asyncio.wait([launching])
    assert not alive(backend.mark)


class TestAStopCommand:
    async def test_is_called_when_a_worker_is_asked_to_end(self, backend: Backends, tmp_path: Path) -> None:
        external = await backend("exec sleep 1000", stop_command=["touch", f"{tmp_path}/stopped-{{index}}-{{port}}"])
        worker = await external.launch(0)
        assert await worker.terminate(10.0) == Ended("was killed by SIGTERM")
        assert (tmp_path / "stopped-0-10090").exists()

    async def test_is_called_when_a_command_has_ended_by_itself(self, backend: Backends, tmp_path: Path) -> None:
        external = await backend("exit 1", stop_command=["touch", f"{tmp_path}/stopped"])
        assert await (await external.launch(0)).wait() == Ended("ended with status 1")
        assert (tmp_path / "stopped").exists()

    @pytest.mark.parametrize(
        ("command", "fault"),
        [
            (["false"], "ended with status 1"),
            (["/nowhere/scancel"], "could not be started: No such file or directory"),
        ],
    )
    async def test_that_fails_is_named(self, backend: Backends, command: list[str], fault: str) -> None:
        worker = await (await backend("exec sleep 1000", stop_command=command)).launch(0)
        worker.kill()
        assert (await worker.wait()).reason == f"was killed by SIGKILL; its stop command {fault}"

    async def test_may_not_take_for_ever(self, backend: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sglang_diffusion_routing.launchers.external.STOP_LIMIT_S", 0.05)
        worker = await (await backend("exit 0", stop_command=["sleep", "1000"])).launch(0)
        assert (await worker.wait()).reason == "ended with status 0; its stop command took longer than 0.05 s"


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    yield mark
    end(mark)


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_a_router_starts_workers_by_a_command_and_takes_their_processes_with_it(tmp_path: Path, mark: str) -> None:
    file = tmp_path / "launcher.yaml"
    file.write_text(
        f"""\
launcher:
  backend: external
  model: m
  num_workers: 2
  command:
    - sh
    - -c
    - "{sys.executable} -m sglang_diffusion_routing sim --port 0; exit 7"
  url_pattern: "ready on (http://\\\\S+)"
  worker_env: {{MARK: {mark}, PYTHONPATH: {SOURCES}}}
  log_dir: {tmp_path}/logs
  restart_delay: 100ms
"""
    )
    with RouterProcess((), "--launcher-config", str(file)) as router:
        eventually(router.statuses, _both_active, within_s=READY_S)
        before = set(router.statuses())
        body = b'{"prompt": "a boat", "size": "64x64", "num_inference_steps": 1}'
        target = b"/v1/images/generations"
        assert ask(router.port, request(b"POST", target, b"Content-Type: application/json", body=body)).status == 200
        os.kill(_sim_of(mark), 9)
        eventually(router.statuses, lambda now: _both_active(now) and set(now) != before, within_s=READY_S)
        router.kill()
        eventually(lambda: alive(mark), lambda left: not left, within_s=READY_S)


def _both_active(statuses: dict[str, str]) -> bool:
    return list(statuses.values()) == ["active", "active"]


def _sim_of(mark: str) -> int:
    """Find the process of a simulated worker, and not the shell that waits for it."""
    for pid in alive(mark):
        if b"sim" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:5]:
            return pid
    raise AssertionError("there is no simulated worker")
