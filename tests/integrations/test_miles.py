"""miles' trainer in front of this router: what it starts, registers, sends, repeats and ends, in our own words.

miles is in no package registry. What stands for it here behaves as its sources do (radixark/miles and
radixark/miles_diffusion: `ray/rollout.py`, `backends/sglang_diffusion_utils/sglang_diffusion_engine.py`,
`utils/http_utils.py`): the router is a daemon process of the rollout manager, engines register and leave by
`requests`, weights and sleep go to the engines themselves, and the rollout posts up to 60 times, a second apart,
whatever went wrong.
"""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import msgpack
import pytest
import requests

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.integrations.miles import run_router, settings_of
from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.deadlines import eventually, eventually_equal
from support.pids import is_running
from support.ports import a_free_port
from support.router import SOURCES, START_S

ATTEMPTS, PAUSE_S = 60, 1.0
"""Of miles' rollout client."""


def arguments(**others: Any) -> Namespace:
    """Those of a trainer that concern the router, with miles' defaults."""
    given: dict[str, Any] = {
        "sglang_router_ip": "127.0.0.1",
        "sglang_router_port": 3471,
        "sglang_server_concurrency": 512,
        "rollout_num_gpus": 2,
        "rollout_num_gpus_per_engine": 1,
        "rollout_health_check_interval": 30.0,
        "use_miles_router": True,
        "miles_router_timeout": None,
        "miles_router_max_connections": None,
        "miles_router_health_check_failure_threshold": 3,
        "miles_router_middleware_paths": [],
    }
    return Namespace(**{**given, **others})


class Manager:
    """What starts the router: as miles does, in a daemon process that runs `run_router(args)`."""

    def __init__(self, args: Namespace, start: str = "spawn") -> None:
        self.url = f"http://{args.sglang_router_ip}:{args.sglang_router_port}"
        self._args = args
        self._start = multiprocessing.get_context(start)

    def start_router(self) -> None:
        self.process = self._start.Process(target=run_router, args=(self._args,), daemon=True)
        self.process.start()
        eventually(self._answers, lambda answers: answers or not self.process.is_alive(), within_s=START_S)
        assert self.process.is_alive()

    def end_router(self) -> None:
        self.process.terminate()
        self.process.join()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/liveness", timeout=5.0).status_code == 200
        except requests.ConnectionError:
            return False


class Engine:
    """A worker that registers itself and takes itself off, and is given its weights without the router."""

    def __init__(self, router: str, sim: SimProcess) -> None:
        self._router = router
        self._sim = sim

    def init(self) -> None:
        self._sim.start()
        requests.post(f"{self._router}/add_worker?url={self._sim.url}", timeout=30.0).raise_for_status()

    def load(self, checkpoint: Path) -> None:
        self._post("update_weights_from_disk", {"model_path": str(checkpoint)})

    def offload(self) -> None:
        self._post("release_memory_occupation", {})

    def onload(self) -> None:
        self._post("resume_memory_occupation", {})

    def shutdown(self) -> None:
        requests.post(f"{self._router}/remove_worker?url={self._sim.url}", timeout=30.0).raise_for_status()
        self._sim.kill()

    def crash_and_come_back(self) -> None:
        """Die as a process does, and be started again at the same address."""
        self._sim.kill()
        self._sim.restart()
        requests.post(f"{self._router}/add_worker?url={self._sim.url}", timeout=30.0).raise_for_status()

    def _post(self, route: str, payload: dict[str, Any]) -> None:
        response = requests.post(f"{self._sim.url}/{route}", json=payload, timeout=30.0)
        response.raise_for_status()
        assert response.json()["success"] is True


class Rollout:
    """miles' client: anything that is no 2xx is tried again, 60 times, a second apart."""

    def __init__(self, router: str, *, concurrency: int = 4) -> None:
        self._url = f"{router}/rollout/generate"
        self._turn = asyncio.Semaphore(concurrency)
        self.repeats = 0

    async def generate(self, prompts: list[str]) -> list[list[dict[str, Any]]]:
        async with httpx2.AsyncClient(timeout=None, limits=httpx2.Limits(max_connections=None)) as client:
            return await asyncio.gather(*(self._group(client, prompt, seed) for seed, prompt in enumerate(prompts)))

    async def _group(self, client: httpx2.AsyncClient, prompt: str, seed: int) -> list[dict[str, Any]]:
        payload = {
            "prompt": prompt,
            "seed": seed,
            "num_outputs_per_prompt": 2,
            "width": 64,
            "height": 64,
            "num_inference_steps": 4,
            "guidance_scale": 4.5,
            "rollout": True,
            "rollout_sde_type": "sde",
            "rollout_noise_level": 0.7,
            "rollout_return_denoising_env": True,
            "rollout_return_dit_trajectory": True,
        }
        async with self._turn:
            content = await self._post(client, payload)
        return list(msgpack.unpackb(content, raw=False))

    async def _post(self, client: httpx2.AsyncClient, payload: dict[str, Any]) -> bytes:
        for attempt in range(ATTEMPTS):
            try:
                response = await client.post(self._url, json=payload)
                response.raise_for_status()
                assert response.headers["content-type"] == "application/msgpack"
                return response.content
            except (httpx2.HTTPError, OSError):
                if attempt == ATTEMPTS - 1:
                    raise
                self.repeats += 1
                await asyncio.sleep(PAUSE_S)
        raise AssertionError


def what_was_made(groups: list[list[dict[str, Any]]]) -> list[list[tuple[str, int, bytes]]]:
    """Name each sample by its prompt and seed, with the bytes of its last latents."""
    return [
        [(one["prompt"], one["seed"], bytes(one["dit_trajectory"]["latents"]["data"])) for one in group]
        for group in groups
    ]


PROMPTS = [f"a boat, number {number}" for number in range(16)]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))
    manager = Manager(arguments(sglang_router_port=a_free_port(), rollout_health_check_interval=0.5))
    manager.start_router()
    yield manager
    manager.end_router()


@pytest.fixture
def engines(manager: Manager) -> Iterator[list[Engine]]:
    sims = [SimProcess(overhead_seconds=0.2) for _ in range(2)]
    engines = [Engine(manager.url, sim) for sim in sims]
    try:
        for engine in engines:
            engine.init()
        yield engines
    finally:
        for sim in sims:
            sim.close()


def workers_of(manager: Manager) -> dict[str, str]:
    workers = requests.get(f"{manager.url}/workers", timeout=10.0).json()["workers"]
    return {worker["url"]: worker["status"] for worker in workers}


@pytest.mark.e2e
async def test_a_rollout_survives_the_death_of_the_router(manager: Manager, engines: list[Engine]) -> None:
    undisturbed = Rollout(manager.url)
    expected = what_was_made(await undisturbed.generate(PROMPTS))
    assert undisturbed.repeats == 0
    rollout = Rollout(manager.url)
    running = asyncio.ensure_future(rollout.generate(PROMPTS))
    await asyncio.to_thread(eventually, lambda: busy(manager), lambda busy: busy)
    assert manager.process.pid is not None
    os.kill(manager.process.pid, signal.SIGKILL)
    await asyncio.to_thread(manager.process.join)
    await asyncio.to_thread(manager.start_router)
    assert what_was_made(await running) == expected
    assert rollout.repeats > 0


def busy(manager: Manager) -> bool:
    workers = requests.get(f"{manager.url}/workers", timeout=10.0).json()["workers"]
    return all(worker["active_requests"] for worker in workers)


@pytest.mark.e2e
async def test_a_crashed_engine_serves_again_though_its_weights_come_past_the_router(
    manager: Manager, engines: list[Engine], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "step-1", seed=1)
    write_checkpoint(tmp_path / "step-2", seed=2)
    for engine in engines:
        engine.load(tmp_path / "step-1")
    assert len(await Rollout(manager.url).generate(PROMPTS[:4])) == 4
    engines[0].crash_and_come_back()
    for engine in engines:
        engine.load(tmp_path / "step-2")
    eventually(lambda: set(workers_of(manager).values()), lambda statuses: statuses == {"active"})
    assert len(await Rollout(manager.url).generate(PROMPTS)) == len(PROMPTS)


@pytest.mark.e2e
async def test_engines_that_slept_past_the_router_serve_when_they_are_awake(
    manager: Manager, engines: list[Engine]
) -> None:
    for engine in engines:
        engine.offload()
    early = Rollout(manager.url)
    running = asyncio.ensure_future(early.generate(PROMPTS[:4]))
    await asyncio.to_thread(eventually, lambda: early.repeats, lambda repeats: repeats >= 4)
    for engine in engines:
        engine.onload()
    assert len(await running) == 4
    assert set(workers_of(manager).values()) == {"active"}


@pytest.mark.e2e
def test_engines_come_and_go(manager: Manager, engines: list[Engine]) -> None:
    assert len(requests.get(f"{manager.url}/list_workers", timeout=10.0).json()["urls"]) == 2
    for engine in engines:
        engine.shutdown()
    eventually_equal(lambda: requests.get(f"{manager.url}/list_workers", timeout=10.0).json(), {"urls": []})
    # One that the router has never heard of, or no longer knows, is ended all the same.
    gone = "http://127.0.0.1:1"
    assert requests.post(f"{manager.url}/remove_worker?url={gone}", timeout=10.0).status_code == 200


@pytest.mark.e2e
def test_engines_come_and_go_as_with_sglangs_router(manager: Manager) -> None:
    """Where miles is told to use SGLang's router, its engines speak to `/workers`."""
    with SimProcess() as sim:
        body = {"url": sim.url, "worker_type": "regular"}
        requests.post(f"{manager.url}/workers", json=body, timeout=10.0).raise_for_status()
        listed = requests.get(f"{manager.url}/workers", timeout=10.0).json()["workers"]
        [worker_id] = [worker["id"] for worker in listed if worker["url"] == sim.url]
        requests.delete(f"{manager.url}/workers/{worker_id}", timeout=10.0).raise_for_status()
        assert workers_of(manager) == {}


STARTER = """
import multiprocessing, sys, time
from argparse import Namespace
from sglang_diffusion_routing.integrations.miles import run_router

if __name__ == "__main__":
    args = Namespace(sglang_router_ip="127.0.0.1", sglang_router_port=int(sys.argv[2]))
    process = multiprocessing.get_context(sys.argv[1]).Process(target=run_router, args=(args,), daemon=True)
    process.start()
    print(process.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.e2e
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("end", ["in order", "killed"])
def test_the_router_ends_with_its_manager(start: str, end: str, tmp_path: Path) -> None:
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    port = a_free_port()
    with subprocess.Popen(
        [sys.executable, script, start, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCES), "XDG_STATE_HOME": str(tmp_path)},
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdin is not None
        router = int(starter.stdout.readline())
        eventually(lambda: listens(port), lambda there: there, within_s=START_S)
        if end == "killed":
            starter.kill()
        starter.stdin.close()
    eventually(lambda: is_running(router), lambda there: not there)


def listens(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/liveness", timeout=5.0).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.mark.e2e
def test_one_that_cannot_listen_ends_with_a_status(manager: Manager) -> None:
    process = multiprocessing.get_context("spawn").Process(target=run_router, args=(manager._args,))
    process.start()
    process.join()
    assert process.exitcode == 1


HANDS_OFF = {"hands_off": True}


@pytest.mark.core
@pytest.mark.parametrize(
    ("args", "asked"),
    [
        pytest.param(
            arguments(),
            {
                "host": "127.0.0.1",
                "port": 3471,
                "health_check_interval": 30.0,
                "health_check_failure_threshold": 3,
            },
            id="miles' arguments",
        ),
        pytest.param(
            arguments(
                sglang_router_ip="[fd00::1]",
                miles_router_timeout=900.0,
                miles_router_max_connections=64,
                miles_router_health_check_failure_threshold=5,
                timeout=3,
                host="elsewhere",
            ),
            {
                "host": "fd00::1",
                "port": 3471,
                "timeout": 900.0,
                "health_check_interval": 30.0,
                "health_check_failure_threshold": 5,
            },
            id="with all set, among others of the same names",
        ),
        pytest.param(
            SimpleNamespace(
                host="10.0.0.1",
                port=3471,
                max_connections=512,
                timeout=None,
                health_check_interval=10.0,
                health_check_failure_threshold=3,
            ),
            {"host": "10.0.0.1", "port": 3471, "health_check_interval": 10.0, "health_check_failure_threshold": 3},
            id="MilesRouterConfig",
        ),
        pytest.param(
            Namespace(
                host="0.0.0.0",
                port=30080,
                worker_urls=["http://gpu-1:10090"],
                max_connections=100,
                timeout=120.0,
                health_check_interval=10,
                health_check_failure_threshold=3,
                routing_algorithm="round-robin",
                verbose=True,
                log_level="info",
            ),
            {
                "host": "0.0.0.0",
                "port": 30080,
                "worker_urls": ["http://gpu-1:10090"],
                "timeout": 120.0,
                "health_check_interval": 10,
                "health_check_failure_threshold": 3,
                "routing_algorithm": "round-robin",
                "verbose": True,
            },
            id="the first sglang-diffusion-routing",
        ),
    ],
)
def test_arguments_are_read_by_their_names(args: object, asked: dict[str, object]) -> None:
    assert settings_of(args) == {**HANDS_OFF, **asked}


@pytest.mark.core
def test_middleware_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(miles_router_middleware_paths=["mine.Middleware"])
    with pytest.raises(BadSetting):
        settings_of(args)
    with pytest.raises(SystemExit) as ended:
        run_router(args)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "sglang-d-router: --miles-router-middleware-paths is not possible: this router runs no code of others\n"
    )
