"""The actor that owns a worker, played without a cluster: real processes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from launchers.processes import FAMILY, alive, end, python
from sglang_diffusion_routing.launchers import ray_actor
from sglang_diffusion_routing.launchers.base import Ended
from sglang_diffusion_routing.launchers.config import BackendName, LauncherConfig
from sglang_diffusion_routing.launchers.ray_actor import Placed, WorkerActor
from support import running
from support.deadlines import eventually

pytestmark = pytest.mark.loopback

SAY = """
import os, sys, time
if "--help" not in sys.argv:
    print(sys.argv[1:], os.environ["EXTRA"], flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.9")
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [3, 5])


def config(tmp_path: Path, *command: str, **options: Any) -> LauncherConfig:
    return LauncherConfig(
        backend=BackendName.RAY,
        model="m",
        num_gpus_per_worker=2,
        worker_command=command,
        worker_env={"EXTRA": "e"},
        log_dir=str(tmp_path),
        worker_base_port=23_000,
        master_port_base=24_000,
        scheduler_port_base=25_000,
        **options,
    )


@asynccontextmanager
async def actor(wanted: LauncherConfig, slot: int = 1) -> AsyncIterator[WorkerActor]:
    made = WorkerActor(wanted, slot)
    try:
        yield made
    finally:
        if made._process is not None:
            await made.kill()
            await made.wait()
        made._ports.close()
        if made._run is not None:
            made._run.close()


async def test_a_worker_listens_on_the_nodes_address_and_on_ports_that_are_free_there(tmp_path: Path) -> None:
    async with actor(config(tmp_path, *python(SAY))) as first, actor(config(tmp_path, *python(SAY))) as second:
        log = str(tmp_path / "worker-1-{}.log")
        facts = {"node": "127.0.0.9", "gpus": "3,5"}
        assert await first.start() == Placed("http://127.0.0.9:23000", log.format(23000), facts)
        assert await second.start() == Placed("http://127.0.0.9:23002", log.format(23002), facts)
        flags = ["--num-gpus", "2", "--host", "127.0.0.9", "--port", "23002"]
        ports = ["--master-port", "25001", "--scheduler-port", "26001"]
        assert await eventually_said(second) == (f"{['--model-path', 'm', *flags, *ports]} e",)


async def eventually_said(worker: WorkerActor) -> tuple[str, ...]:
    """Give its last lines once there are some."""

    async def read() -> tuple[str, ...]:
        return await worker.tail(5)

    return await running.eventually(read, bool)


async def test_a_log_has_a_folder_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    wanted = config(tmp_path, *python(SAY)).model_copy(update={"log_dir": None})
    async with actor(wanted) as worker:
        placed = await worker.start()
        assert isinstance(placed, Placed)
        folder = tmp_path / f"sglang-d-launcher-{os.getuid()}"
        assert Path(placed.log).parent == folder / "workers"
        assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_worker_that_does_not_start_says_why(tmp_path: Path) -> None:
    async with actor(config(tmp_path, "/nowhere/engine")) as worker:
        ended = await worker.start()
        assert ended == Ended("could not be started: no such file or directory: /nowhere/engine")


async def test_a_node_without_free_ports_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actor, "PORTS_TRIED", 0)
    async with actor(config(tmp_path, *python(SAY))) as worker:
        assert await worker.start() == Ended("finds no free ports on 127.0.0.9")


async def test_a_worker_is_asked_to_end_and_its_last_lines_are_kept(tmp_path: Path) -> None:
    async with actor(config(tmp_path, *python(SAY))) as worker:
        await worker.start()
        await eventually_said(worker)
        ended = await worker.terminate(10.0)
        assert (ended.reason, len(ended.tail)) == ("was killed by SIGTERM", 1)
        assert await worker.wait() == ended


OWNER = """
import asyncio, os, sys
import ray
ray.util.get_node_ip_address = lambda: "127.0.0.9"
ray.get_gpu_ids = lambda: []
from sglang_diffusion_routing.launchers.config import BackendName, LauncherConfig
from sglang_diffusion_routing.launchers.ray_actor import WorkerActor

async def main():
    command = (sys.executable, "-c", sys.argv[1])
    config = LauncherConfig(backend=BackendName.RAY, model="m", worker_command=command, log_dir=sys.argv[2],
                            worker_env={"MARK": sys.argv[3]})
    print(await WorkerActor(config, 0).start(), flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_an_actor_that_ray_ends_leaves_nothing_of_its_worker(tmp_path: Path) -> None:
    """Ray kills an actor's process, and before that its children, and no deeper."""
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    family = "import sys\nif '--help' in sys.argv: sys.exit()\n" + FAMILY
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, family, str(tmp_path), mark],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert owner.stdout is not None
        assert b"Placed" in owner.stdout.readline()
        eventually(lambda: len(alive(mark)), lambda number: number >= 4)
        for child in _children(owner.pid):
            os.kill(child, signal.SIGKILL)
        owner.kill()
        owner.wait()
        eventually(lambda: alive(mark), lambda left: not left)
    finally:
        owner.kill()
        owner.wait()
        assert owner.stdout is not None
        owner.stdout.close()
        end(mark)


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
