"""A router in a Ray job, on a real cluster of this machine: placed, asked, killed, and gone with its job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from launchers.ray_cluster import RayCluster
from sglang_diffusion_routing.client.errors import TookTooLong
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.integrations import ray as module
from sglang_diffusion_routing.integrations.ray import Router, RouterActor, start_router
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.deadlines import eventually, eventually_equal
from support.pids import is_running, parent_of
from support.ports import a_free_port
from support.router import SOURCES, START_S

TESTS = Path(__file__).resolve().parents[1]
NODE = "127.0.0.101"
CLUSTER_S = 90.0
"""Ray starts in some ten seconds, and ends what a lost job has left in as many."""


@pytest.fixture
def worker() -> Iterator[SimInThread]:
    with SimInThread(SimSettings()) as worker:
        yield worker


@pytest.fixture
def actor() -> Iterator[RouterActor]:
    """The actor as an object of this process: without a cluster it is the same."""
    actor = RouterActor({"host": "127.0.0.1"})
    yield actor
    actor.stop()


@pytest.mark.e2e
def test_a_router_that_dies_is_started_again_and_knows_its_workers(actor: RouterActor, worker: SimInThread) -> None:
    actor.add_workers([worker.url])
    eventually_equal(actor.healthy_workers, 1)
    first, url = actor.pid(), actor.address()
    for number, how in enumerate([signal.SIGKILL, signal.SIGTERM], start=1):
        os.kill(actor.pid(), how)
        eventually(actor.restarts, lambda restarts, number=number: restarts == number)
        eventually_equal(actor.healthy_workers, 1, within_s=START_S)
    assert ([one["url"] for one in actor.workers()], actor.address()) == ([worker.url], url)
    assert actor.pid() != first


@pytest.mark.e2e
def test_a_router_that_was_stopped_is_not_started_again() -> None:
    actor = RouterActor({"host": "127.0.0.1"})
    pid, folder = actor.pid(), Path(actor._folder.name)
    assert folder.exists()
    assert actor.stop() == 0
    assert (actor.restarts(), is_running(pid), actor.healthy_workers(), folder.exists()) == (0, False, None, False)


@pytest.mark.core
def test_a_bad_setting_is_named_before_any_cluster_is_asked() -> None:
    with pytest.raises(BadSetting, match="did you mean worker_urls"):
        start_router(worker_url=["http://a:1"])


class Answers:
    """A method of an actor that gives what is next."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)

    def remote(self) -> object:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class FakeActor:
    def __init__(self, *healthy: int | None) -> None:
        self.healthy_workers = Answers(*healthy)


@pytest.mark.core
def test_a_job_waits_for_as_many_workers_as_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.0)
    Router(FakeActor(None, 0, 1, 2), "http://r:1").wait_ready(2)
    with pytest.raises(TookTooLong, match=r"^the router at http://r:1 had 1 of 2 healthy workers after 0 s$"):
        Router(FakeActor(1), "http://r:1").wait_ready(2, within_s=0.0)
    with pytest.raises(TookTooLong, match=r"^the router at http://r:1 did not answer after 0 s$"):
        Router(FakeActor(None), "http://r:1").wait_ready(within_s=0.0)


class Job:
    """A training job in a process of its own, as the test sees it (`ray_job.py`)."""

    def __init__(self, cluster: RayCluster) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "integrations.ray_job", cluster.address, NODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": str(SOURCES), "RAY_USAGE_STATS_ENABLED": "0"},
        )
        assert self._read() == "ready"

    def do(self, what: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def kill(self) -> None:
        self._process.kill()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                return json.loads(line)
            except ValueError:
                continue
        raise AssertionError("the job ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(NODE) as made:
        yield made


@pytest.fixture
def job(cluster: RayCluster) -> Iterator[Job]:
    with Job(cluster) as job:
        yield job


def gone(pid: int) -> None:
    eventually(lambda: is_running(pid), lambda there: not there, within_s=CLUSTER_S)


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_a_job_has_a_router_on_the_node_that_it_names(job: Job, worker: SimInThread) -> None:
    placed = job.do("start", {"max_concurrency_per_worker": 3})
    assert placed["url"].startswith(f"http://{NODE}:")
    assert httpx2.get(f"{placed['url']}/router_info").status_code == 200
    assert job.do("add", worker.url) == [worker.url]
    assert job.do("rollout", [1, 2, 3]) == [2, 2, 2]
    job.do("stop")
    assert not is_running(placed["pid"])


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_what_the_page_prints_runs(cluster: RayCluster, worker: SimInThread) -> None:
    page = (TESTS.parent / "docs" / "integrations.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import start_router" in block]
    code = code.replace("ray.init()", f"ray.init({cluster.address!r}, log_to_driver=False)")
    with SimInThread(SimSettings()) as other:
        code = code.replace("http://10.0.0.5:10090", worker.url).replace("http://10.0.0.6:10090", other.url)
        code = code.replace("seed=7", "seed=7, width=64, height=64, num_inference_steps=1")
        ran = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=False,
            text=True,
            timeout=120.0,
            env={**os.environ, "PYTHONPATH": str(SOURCES), "RAY_USAGE_STATS_ENABLED": "0"},
        )
    assert ran.returncode == 0, ran.stderr
    assert "Sample(" in ran.stdout


@pytest.mark.e2e
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["asked", "killed"])
def test_a_router_goes_with_its_actor(how: str, job: Job) -> None:
    pid = job.do("start", {})["pid"]
    if how == "asked":
        job.do("kill")
    else:
        # Nobody ends the children of an actor that is killed from outside, as by the kernel.
        os.kill(parent_of(pid), signal.SIGKILL)
    gone(pid)


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_an_actor_that_ray_starts_again_has_the_same_router(job: Job, worker: SimInThread, tmp_path: Path) -> None:
    settings = {"port": a_free_port(), "state": str(tmp_path / "state.db")}
    placed = job.do("start", settings, {"max_restarts": 1, "max_task_retries": -1})
    assert job.do("add", worker.url) == [worker.url]
    os.kill(parent_of(placed["pid"]), signal.SIGKILL)
    assert job.do("workers") == [worker.url]
    assert httpx2.get(f"{placed['url']}/list_workers").json() == {"urls": [worker.url]}
    gone(placed["pid"])


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_a_router_goes_with_its_job(cluster: RayCluster) -> None:
    with Job(cluster) as job:
        pid = job.do("start", {})["pid"]
        assert is_running(pid)
        job.kill()
        gone(pid)


@pytest.mark.e2e
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["asked", "killed"])
def test_miles_router_serves_in_an_actor_and_goes_with_it(how: str, job: Job) -> None:
    port = a_free_port()
    pid = job.do("manage", port)
    eventually(lambda: answers(port), lambda there: there, within_s=CLUSTER_S)
    if how == "asked":
        job.do("kill_manager")
    else:
        os.kill(parent_of(pid), signal.SIGKILL)
    gone(pid)


def answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/liveness").status_code == 200
    except httpx2.TransportError:
        return False
