"""Start the workers as actors of a Ray cluster, on whichever nodes have the GPUs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers.base import Ended, Fact, LaunchFailed
from sglang_diffusion_routing.launchers.config import LauncherConfig
from sglang_diffusion_routing.tasks import spawn

if TYPE_CHECKING:
    from sglang_diffusion_routing.launchers.ray_actor import Placed

_log = structlog.get_logger(__name__)

TAIL_INTERVAL_S = 2.0
TAIL_LINES = 20
SILENCE_LIMIT_S = 60.0
"""How long an actor that cannot be reached is waited for: Ray tells a cut from a death only after some 20 s
(RAY_health_check_period_ms and its neighbours), and a worker that may still run must not get a successor."""

KILL_LIMIT_S = 30.0
_ASK_AGAIN_S = 1.0


class RayBackend:
    """Workers on the nodes of a Ray cluster (`base.Backend`).

    A slot has a placement group of its own, one bundle with all its GPUs and so on one node, and keeps it while its
    worker is started again: nobody takes the GPUs in between, and Ray places the group anew when the node is lost.
    Actors and groups belong to this process's job: they end with it, however it ends.
    """

    keeps_url = False

    def __init__(self, config: LauncherConfig) -> None:
        self._config = config
        self._groups: dict[int, Any] = {}
        self._connected = False

    @property
    def slots(self) -> int:
        return self._config.num_workers

    async def prepare(self) -> None:
        try:
            import ray  # an extra that few need, and a second to import
        except ImportError:
            raise BadSetting(
                "launcher", "has the backend ray, which needs Ray: pip install 'sglang-diffusion-routing[ray]'"
            ) from None
        address = self._config.address
        try:
            await asyncio.to_thread(_connect, address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = str(error).strip().splitlines()
            raise BadSetting(
                "launcher: address", f"no Ray cluster at {address}: {why[0] if why else error!r}"
            ) from None
        self._connected = True
        have = await asyncio.to_thread(ray.cluster_resources)
        self._make_sure_of(int(have.get("GPU", 0)))

    def _make_sure_of(self, gpus: int) -> None:
        """Say when there are too few GPUs: a cluster may grow, this machine alone will not."""
        config = self._config
        wanted = config.num_workers * config.num_gpus_per_worker
        if wanted <= gpus:
            return
        if config.address == "local":
            raise BadSetting("launcher", f"wants {wanted} GPUs, and Ray finds {gpus}")
        _log.warning("ray_has_too_few_gpus", wanted=wanted, there=gpus)

    async def launch(self, slot: int) -> RayWorker:
        from ray import exceptions

        from sglang_diffusion_routing.launchers.ray_actor import Placed

        actor = await asyncio.to_thread(self._place, slot)
        try:
            placed: Placed | Ended = await actor.start.remote()
        except exceptions.RayError as error:
            await _kill(actor)
            raise LaunchFailed(f"could not be started: {_last_line(error)}") from None
        except BaseException:
            await asyncio.shield(_kill(actor))
            raise
        if not isinstance(placed, Placed):
            await _kill(actor)
            raise LaunchFailed(placed.reason, placed.tail)
        return RayWorker(actor, placed)

    def _place(self, slot: int) -> Any:
        """Make an actor in the slot's placement group. It begins when there is room; blocks for a moment."""
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from sglang_diffusion_routing.launchers.ray_actor import WorkerActor

        config = self._config
        cpus, gpus = config.num_cpus_per_worker, config.num_gpus_per_worker
        if slot not in self._groups:
            needs = {"CPU": float(cpus), "GPU": float(gpus)}
            self._groups[slot] = placement_group([{name: number for name, number in needs.items() if number}])
        strategy = PlacementGroupSchedulingStrategy(self._groups[slot], placement_group_bundle_index=0)
        actor = ray.remote(WorkerActor).options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=strategy)
        return actor.remote(config, slot)

    async def aclose(self) -> None:
        if self._connected:
            self._connected = False
            await asyncio.to_thread(self._leave)

    def _leave(self) -> None:
        import ray
        from ray.util.placement_group import remove_placement_group

        for group in self._groups.values():
            remove_placement_group(group)
        self._groups.clear()
        ray.shutdown()


class RayWorker:
    """A worker on a node of the cluster (`base.Launched`)."""

    def __init__(self, actor: Any, placed: Placed) -> None:
        self._actor = actor
        self._placed = placed
        self._tail: tuple[str, ...] = ()
        self._reading = spawn(self._keep_tail(), name="ray-tail")
        self._ended = spawn(self._watch(), name="ray-worker")

    @property
    def url(self) -> str:
        return self._placed.url

    @property
    def pid(self) -> int | None:
        return None

    @property
    def log(self) -> str | None:
        return f"{self._placed.facts['node']}:{self._placed.log}"

    def facts(self) -> Mapping[str, Fact]:
        return self._placed.facts

    def tail(self, lines: int) -> tuple[str, ...]:
        return self._tail[-lines:]

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def terminate(self, grace_s: float) -> Ended:
        from ray import exceptions

        with suppress(exceptions.RayError):
            await self._actor.terminate.remote(grace_s)
        return await self.wait()

    def kill(self) -> None:
        if not self._ended.done():
            spawn(self._kill(), name="ray-kill")

    async def _kill(self) -> None:
        """Let the actor kill the worker and see it end; the actor itself only if it does not."""
        from ray import exceptions

        with suppress(exceptions.RayError):
            await self._actor.kill.remote()
        done, _ = await asyncio.wait([self._ended], timeout=KILL_LIMIT_S)
        if not done:
            await _kill(self._actor)

    async def _watch(self) -> Ended:
        """Wait for the worker's end or its actor's; then nothing of either is left."""
        from ray import exceptions

        loop = asyncio.get_running_loop()
        silent_since_s: float | None = None
        try:
            while True:
                try:
                    return await self._actor.wait.remote()  # type: ignore[no-any-return]  # Ray has no types for it
                except exceptions.ActorUnavailableError:
                    silent_since_s = loop.time() if silent_since_s is None else silent_since_s
                    if loop.time() > silent_since_s + SILENCE_LIMIT_S:
                        break
                    await asyncio.sleep(_ASK_AGAIN_S)
                except exceptions.RayError:
                    break
            return Ended(f"was lost with its actor on {self._placed.facts['node']}", self._tail)
        finally:
            self._reading.cancel()
            await _kill(self._actor)

    async def _keep_tail(self) -> None:
        """Keep the last lines here: who asks for them is the event loop."""
        from ray import exceptions

        while True:
            with suppress(exceptions.RayError):
                self._tail = await self._actor.tail.remote(TAIL_LINES)
            await asyncio.sleep(TAIL_INTERVAL_S)


def _connect(address: str) -> None:
    """Join a cluster, or start one of this machine alone; blocks for seconds."""
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == "local":
        # A cluster that nobody asked for by name reports to nobody.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options["include_dashboard"] = False
    ray.init(address, **options)


async def _kill(actor: Any) -> None:
    """End an actor, and with it all that it started."""
    import ray

    await asyncio.to_thread(ray.kill, actor)


def _last_line(error: BaseException) -> str:
    """Give the line that says what happened: before it stands how Ray came there, as a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
