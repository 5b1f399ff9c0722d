"""A router as an actor of a Ray job: on a node of its cluster, started again if it dies, gone with the job."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from sglang_diffusion_routing.client.errors import ClientError, TookTooLong
from sglang_diffusion_routing.integrations import serving
from sglang_diffusion_routing.integrations.process import START_S, RouterFailed, RouterProcess

_log = structlog.get_logger(__name__)

RESTART_PAUSE_S = 1.0
_ASK_AGAIN_S = 0.1
_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})


class RouterActor:
    """The owner of a router's process; each method is a call from the job (`ray.remote(RouterActor)`).

    The process listens on all of its node's addresses and on any free port, if its settings say nothing else. When it
    dies it is started again at the same port and knows what it knew, by a state file that this actor keeps.

    Args:
        settings: those of the router, by their YAML names.
        start_s: how long it may take until it listens; more where it starts workers itself.
    """

    def __init__(self, settings: Mapping[str, object], start_s: float = START_S) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sglang-d-router-")
        private = {"state": str(Path(self._folder.name) / "state.db"), "resume": True}
        started_again = _is_started_again()
        kept = {"resume": True} if started_again else {}
        own = {"host": "0.0.0.0", "port": 0, **(kept if "state" in settings else private)}
        self._start_s = start_s
        self._router = RouterProcess({**own, **settings})
        self._begin(patiently=started_again)
        self._restarts = 0
        self._ending = threading.Event()
        self._turn = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, name="router-keeper", daemon=True)
        self._keeper.start()

    def address(self) -> str:
        """Give the URL by which the whole cluster reaches the router."""
        import ray

        if self._router.settings.host in _EVERYWHERE:
            return self._router.url_at(ray.util.get_node_ip_address())
        return self._router.url

    def healthy_workers(self) -> int | None:
        """Count the workers that are well; None when the router does not answer."""
        try:
            with self._router.client() as client:
                return int(client.health()["healthy_workers"])
        except ClientError:
            return None

    def workers(self) -> list[dict[str, Any]]:
        """List the workers as `GET /workers` does."""
        with self._router.client() as client:
            return client.workers()

    def add_workers(self, urls: Sequence[str]) -> None:
        """Register workers."""
        with self._router.client() as client:
            client.call("POST", "/workers", {"urls": list(urls)})

    def restarts(self) -> int:
        """Tell how often the router had to be started again."""
        return self._restarts

    def pid(self) -> int:
        """Give the router's process, on the actor's node."""
        return self._router.pid

    def stop(self) -> int:
        """End the router in order, and give its exit status."""
        self._ending.set()
        with self._turn:
            status = self._router.stop()
        self._keeper.join()
        self._folder.cleanup()
        return status

    def _begin(self, *, patiently: bool) -> None:
        """Start the router; where this actor has had another one before, wait until that has left port and state."""
        deadline_s = time.monotonic() + self._router.settings.shutdown_grace_s + self._start_s
        while True:
            try:
                return self._router.start(self._start_s)
            except RouterFailed:
                if not patiently or time.monotonic() > deadline_s:
                    raise
            time.sleep(RESTART_PAUSE_S)

    def _keep(self) -> None:
        """Start the router again whenever it has ended."""
        while True:
            status = self._router.wait()
            if self._ending.wait(RESTART_PAUSE_S):
                return
            with self._turn:
                if self._ending.is_set():
                    return
                _log.warning("router_died", status=status, port=self._router.port)
                self._restarts += 1
                with suppress(RouterFailed):
                    self._router.start(self._start_s)


def _is_started_again() -> bool:
    """Tell whether Ray has made this actor anew after an earlier one had died."""
    import ray

    return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


@dataclass(frozen=True, slots=True)
class Router:
    """A router in the job, as its trainer holds it. It can be passed to other tasks and actors.

    actor: the handle of its `RouterActor`. url: by which the whole cluster reaches it.
    """

    actor: Any
    url: str

    def wait_ready(self, workers: int = 0, within_s: float = START_S) -> None:
        """Wait until it answers, and so many of its workers are healthy.

        Raises:
            TookTooLong: it did not come to that within `within_s`.
        """
        import ray

        deadline_s = time.monotonic() + within_s
        while True:
            healthy: int | None = ray.get(self.actor.healthy_workers.remote())
            if healthy is not None and healthy >= workers:
                return
            if time.monotonic() > deadline_s:
                found = "did not answer" if healthy is None else f"had {healthy} of {workers} healthy workers"
                raise TookTooLong(f"the router at {self.url} {found} after {within_s:g} s")
            time.sleep(_ASK_AGAIN_S)

    def add_workers(self, urls: Sequence[str]) -> None:
        """Register workers."""
        import ray

        ray.get(self.actor.add_workers.remote(list(urls)))

    def workers(self) -> list[dict[str, Any]]:
        """List the workers as `GET /workers` does."""
        import ray

        found: list[dict[str, Any]] = ray.get(self.actor.workers.remote())
        return found

    def stop(self) -> None:
        """End it in order, and its actor."""
        import ray

        ray.get(self.actor.stop.remote())
        ray.kill(self.actor)


def start_router(
    *,
    num_cpus: float = 1,
    node_id: str | None = None,
    start_s: float = START_S,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Router:
    """Start a router in this job's cluster, and wait until it listens.

    Args:
        num_cpus: that Ray sets aside for it; it uses one core at most.
        node_id: the node, by Ray's id; None for whichever has room.
        start_s: how long it may take until it listens; more where it starts workers itself.
        options: further options of the actor, as Ray has them (`name`, `max_restarts`, `resources`).
        settings: those of the router, by their YAML names: `worker_urls=[...]`, `max_concurrency_per_worker=4`.

    Raises:
        BadSetting: a setting is unknown, or its value bad.
        ray.exceptions.RayActorError: it did not start; the actor's log says why.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    serving.read(settings)
    asked: dict[str, Any] = {"num_cpus": num_cpus, **(options or {})}
    if node_id is not None:
        asked["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor = ray.remote(RouterActor).options(**asked).remote(settings, start_s)
    return Router(actor, ray.get(actor.address.remote()))
