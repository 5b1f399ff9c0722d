"""Workers on a Ray cluster, behind a real router: placed, lost with a node, placed anew, and gone with the router."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray import exceptions
from structlog.testing import capture_logs

from launchers.processes import alive, end
from launchers.ray_cluster import RayCluster
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers import ray as module
from sglang_diffusion_routing.launchers.base import Ended, LaunchFailed
from sglang_diffusion_routing.launchers.config import BackendName, LauncherConfig
from sglang_diffusion_routing.launchers.ray import RayBackend, RayWorker
from sglang_diffusion_routing.launchers.ray_actor import Placed
from support import running
from support.client import ask, request
from support.deadlines import eventually, eventually_equal
from support.router import RouterProcess

CLUSTER_S = 90.0
"""Ray starts in some ten seconds, and tells of a lost node in as many; machines stall."""

IMAGE = b'{"prompt": "a boat", "size": "64x64", "num_inference_steps": 1}'


@pytest.mark.core
async def test_without_ray_the_start_ends_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadSetting) as caught:
        await RayBackend(LauncherConfig(backend=BackendName.RAY, model="m")).prepare()
    assert caught.value.message == (
        "launcher has the backend ray, which needs Ray: pip install 'sglang-diffusion-routing[ray]'"
    )


@pytest.mark.loopback
async def test_without_a_cluster_the_start_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    backend = RayBackend(LauncherConfig(backend=BackendName.RAY, model="m"))
    with pytest.raises(BadSetting, match=r"^launcher: address no Ray cluster at auto: [^\n]+$"):
        await backend.prepare()
    await backend.aclose()


@pytest.mark.core
def test_this_machine_alone_does_not_grow() -> None:
    config = LauncherConfig(backend=BackendName.RAY, model="m", num_workers=2, num_gpus_per_worker=4, address="local")
    RayBackend(config)._make_sure_of(8)
    with pytest.raises(BadSetting, match=r"^launcher wants 8 GPUs, and Ray finds 7$"):
        RayBackend(config)._make_sure_of(7)
    with capture_logs() as logs:
        RayBackend(config.model_copy(update={"address": "auto"}))._make_sure_of(7)
    assert logs == [{"event": "ray_has_too_few_gpus", "log_level": "warning", "wanted": 8, "there": 7}]


class Call:
    """A method of an actor: gives or raises what is next, and the last for ever."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[object, ...]] = []

    async def remote(self, *arguments: object) -> object:
        self.asked.append(arguments)
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return await answer if isinstance(answer, asyncio.Future) else answer


class Actor:
    """An actor as the router sees it."""

    def __init__(self, wait: Call, *, kill: Call | None = None, terminate: Call | None = None) -> None:
        self.start = Call(None)
        self.wait = wait
        self.tail = Call(("the last line",))
        self.kill = kill or Call(None)
        self.terminate = terminate or Call(None)


PLACED = Placed("http://10.0.0.1:81", "/logs/a", {"node": "10.0.0.1", "gpus": "0"})
ENDED = Ended("ended with status 1", ("some line",))


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Actors that were ended by force."""
    found: list[object] = []
    monkeypatch.setattr(ray, "kill", found.append)
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.0)
    return found


@pytest.mark.core
class TestAnActor:
    async def test_tells_how_its_worker_ended_and_goes_then(self, killed: list[object]) -> None:
        actor = Actor(Call(ENDED))
        worker = RayWorker(actor, PLACED)
        assert await worker.wait() == ENDED
        assert killed == [actor]
        assert (worker.url, worker.pid, worker.log) == ("http://10.0.0.1:81", None, "10.0.0.1:/logs/a")

    async def test_that_dies_is_lost_with_its_worker(self, killed: list[object]) -> None:
        worker = RayWorker(Actor(Call(exceptions.ActorDiedError())), PLACED)
        await eventually_said(worker)
        assert await worker.wait() == Ended("was lost with its actor on 10.0.0.1", ("the last line",))

    async def test_that_cannot_be_reached_for_a_while_is_not_given_up(self, killed: list[object]) -> None:
        cut = exceptions.ActorUnavailableError("cut", None)
        actor = Actor(Call(cut, cut, cut, ENDED))
        assert await RayWorker(actor, PLACED).wait() == ENDED
        assert len(actor.wait.asked) == 4

    async def test_that_cannot_be_reached_for_long_is_given_up(
        self, killed: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "SILENCE_LIMIT_S", 0.01)
        actor = Actor(Call(exceptions.ActorUnavailableError("cut", None)))
        ended = await RayWorker(actor, PLACED).wait()
        assert (ended.reason, killed) == ("was lost with its actor on 10.0.0.1", [actor])

    async def test_is_asked_to_end_its_worker_within_the_grace(self, killed: list[object]) -> None:
        waiting = asyncio.get_running_loop().create_future()
        actor = Actor(Call(waiting), terminate=Call(ENDED))
        worker = RayWorker(actor, PLACED)
        ending = asyncio.ensure_future(worker.terminate(7.0))
        await running.eventually(asked(actor.terminate), lambda calls: calls == [(7.0,)])
        waiting.set_result(ENDED)
        assert await ending == ENDED

    async def test_that_does_not_kill_its_worker_is_killed_itself(
        self, killed: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "KILL_LIMIT_S", 0.01)
        waiting = asyncio.get_running_loop().create_future()
        actor = Actor(Call(waiting))
        worker = RayWorker(actor, PLACED)
        worker.kill()

        async def ended_by_force() -> list[object]:
            return killed

        await running.eventually(ended_by_force, bool)
        assert actor.kill.asked == [()]
        waiting.set_exception(exceptions.ActorDiedError())
        assert (await worker.wait()).reason == "was lost with its actor on 10.0.0.1"


class Placing(RayBackend):
    """Has an actor without a cluster."""

    def __init__(self, start: Call) -> None:
        super().__init__(LauncherConfig(backend=BackendName.RAY, model="m"))
        self.actor = Actor(Call(ENDED))
        self.actor.start = start

    def _place(self, slot: int) -> Actor:
        return self.actor


@pytest.mark.core
class TestALaunch:
    async def test_gives_the_worker_that_was_placed(self, killed: list[object]) -> None:
        worker = await Placing(Call(PLACED)).launch(0)
        assert (worker.url, await worker.wait()) == (PLACED.url, ENDED)

    async def test_whose_worker_does_not_start_says_why_and_leaves_no_actor(self, killed: list[object]) -> None:
        backend = Placing(Call(ENDED))
        with pytest.raises(LaunchFailed) as caught:
            await backend.launch(0)
        assert (caught.value.ended, killed) == (ENDED, [backend.actor])

    async def test_whose_actor_fails_says_why_and_leaves_no_actor(self, killed: list[object]) -> None:
        trace = "The actor died because of\n  File x\nModuleNotFoundError: No module named 'sglang_diffusion_routing'\n"
        backend = Placing(Call(exceptions.RaySystemError(trace)))
        with pytest.raises(LaunchFailed) as caught:
            await backend.launch(0)
        why = "could not be started: ModuleNotFoundError: No module named 'sglang_diffusion_routing'"
        assert (caught.value.ended, killed) == (Ended(why), [backend.actor])

    async def test_that_is_called_off_leaves_no_actor(self, killed: list[object]) -> None:
        backend = Placing(Call(asyncio.get_running_loop().create_future()))
        launching = asyncio.ensure_future(backend.launch(0))
        await running.eventually(asked(backend.actor.start), bool)
        launching.cancel()
        await asyncio.wait([launching])
        assert (launching.cancelled(), killed) == (True, [backend.actor])


def asked(call: Call) -> Callable[[], Awaitable[list[tuple[object, ...]]]]:
    async def read() -> list[tuple[object, ...]]:
        return call.asked

    return read


async def eventually_said(worker: RayWorker) -> None:
    async def read() -> tuple[str, ...]:
        return worker.tail(5)

    await running.eventually(read, bool)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster("127.0.0.101", "127.0.0.102") as made:
        yield made


def launcher_file(path: Path, cluster: RayCluster, mark: str) -> Path:
    path.write_text(
        f"""\
launcher:
  backend: ray
  address: {cluster.address}
  model: m
  num_workers: 2
  num_gpus_per_worker: 1
  worker_command: [{sys.executable}, -m, sglang_diffusion_routing, sim]
  worker_env: {{MARK: {mark}}}
  restart_delay: 100ms
"""
    )
    return path


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_workers_are_where_the_gpus_are_and_go_with_their_node_and_with_the_router(
    cluster: RayCluster, tmp_path: Path
) -> None:
    mark = f"mark-{tmp_path.name}-{id(tmp_path)}"
    file = launcher_file(tmp_path / "launcher.yaml", cluster, mark)
    try:
        with RouterProcess((), "--launcher-config", str(file), "--health-check-interval", "0.5") as router:

            def active() -> set[str]:
                return {url.rpartition(":")[0] for url, status in router.statuses().items() if status == "active"}

            def hosts() -> set[str]:
                return {url.rpartition(":")[0] for url in router.statuses()}

            first, second, third = (f"http://127.0.0.{number}" for number in (101, 102, 103))
            eventually(active, lambda seen: seen == {first, second}, within_s=CLUSTER_S)
            assert _works(router)
            before = alive(mark)
            os.kill(cluster.an_actor(), signal.SIGKILL)
            eventually(lambda: len(before & alive(mark)), lambda left: left == len(before) / 2, within_s=CLUSTER_S)
            eventually(active, lambda seen: seen == {first, second}, within_s=CLUSTER_S)
            cluster.kill("127.0.0.101")
            eventually(active, lambda seen: seen == {second}, within_s=CLUSTER_S)
            assert _works(router)
            cluster.add("127.0.0.103")
            eventually(active, lambda seen: seen == {second, third}, within_s=CLUSTER_S)
            eventually_equal(hosts, {second, third})
            assert len(alive(mark)) >= 2
            router.kill()
            eventually(lambda: alive(mark), lambda left: not left, within_s=CLUSTER_S)
    finally:
        end(mark)


def _works(router: RouterProcess) -> bool:
    target = b"/v1/images/generations"
    reply = ask(router.port, request(b"POST", target, b"Content-Type: application/json", body=IMAGE))
    return reply.status == 200
