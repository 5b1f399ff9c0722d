"""Run one worker on a node of a Ray cluster, as the actor that owns it there.

This module is imported by Ray's worker processes, so it needs little: nothing of the router runs on those nodes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray

from sglang_diffusion_routing.launchers.base import Ended, Fact, LaunchFailed
from sglang_diffusion_routing.launchers.config import LauncherConfig
from sglang_diffusion_routing.launchers.engine_command import OPTIONAL_FLAGS, Listening, engine_command
from sglang_diffusion_routing.launchers.leftovers import Run, own_folder
from sglang_diffusion_routing.launchers.optional_flags import known_flags
from sglang_diffusion_routing.launchers.ports import LAST_PORT, Ports
from sglang_diffusion_routing.launchers.process import Spec, WorkerProcess

PORTS_TRIED = 1000
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})

# Ray kills the children of a process that it ends, and no deeper (RAY_kill_child_processes_on_worker_exit). The
# guardian must outlive the actor by the moment that it takes to kill the worker with all that it started: so it is not
# the actor's child, but the child of a shell that is.
BEHIND_A_SHELL = ("/bin/sh", "-c", '"$@" & wait', "sh")


@dataclass(frozen=True, slots=True)
class Placed:
    """A worker that runs on a node.

    log: its path on that node.
    """

    url: str
    log: str
    facts: Mapping[str, Fact]


class WorkerActor:
    """The owner of one worker's process. Each method is a call from the router; only `start` comes first."""

    def __init__(self, config: LauncherConfig, slot: int) -> None:
        self._config = config
        self._slot = slot
        self._ports = Ports()
        self._run: Run | None = None
        self._process: WorkerProcess | None = None

    async def start(self) -> Placed | Ended:
        """Start the worker on ports of this node; gives why, if it did not start."""
        config = self._config
        node = ray.util.get_node_ip_address()
        listening = self._listening(node)
        if listening is None:
            return Ended(f"finds no free ports on {node}")
        self._run = await asyncio.to_thread(Run)
        environ = {**os.environ, **config.worker_env}
        flags = await known_flags(config.worker_command, config.model, OPTIONAL_FLAGS, environ)
        gpus = ",".join(str(gpu) for gpu in ray.get_gpu_ids()) or None
        spec = Spec(
            url=listening.url(node),
            command=engine_command(config, listening, flags),
            env=environ,
            log=self._folder() / f"worker-{self._slot}-{listening.port}.log",
            log_max_bytes=config.log_max_bytes,
            token=self._run.token_of(self._slot),
            facts={"node": node, "gpus": gpus},
            through=BEHIND_A_SHELL,
        )
        try:
            self._process = await WorkerProcess.start(spec)
        except LaunchFailed as failed:
            return failed.ended
        return Placed(spec.url, str(spec.log), spec.facts)

    def _listening(self, node: str) -> Listening | None:
        """Reserve ports on this node; None if there are none."""
        config = self._config
        port = self._ports.first_free(_tried(config.worker_base_port, 2), 2)
        stride = self._slot * config.internal_port_stride
        master = self._ports.first_free(_tried(config.master_port_base + stride, 1))
        scheduler = self._ports.first_free(_tried(config.scheduler_port_base + stride, 1))
        if port is None or master is None or scheduler is None:
            return None
        # The router may be on another node: a loopback address would be its own.
        host = node if config.worker_host in _LOOPBACK else config.worker_host
        return Listening(host, port, master, scheduler)

    def _folder(self) -> Path:
        return own_folder() / "workers" if self._config.log_dir is None else Path(self._config.log_dir)

    async def wait(self) -> Ended:
        """Wait until nothing of the worker is left."""
        return await self._started.wait()

    async def terminate(self, grace_s: float) -> Ended:
        """Ask the worker to end, and kill what is left of it after `grace_s`."""
        return await self._started.terminate(grace_s)

    async def kill(self) -> None:
        """End the worker at once."""
        self._started.kill()

    async def tail(self, lines: int) -> tuple[str, ...]:
        """Give the last lines of the worker's log."""
        return self._started.tail(lines)

    @property
    def _started(self) -> WorkerProcess:
        if self._process is None:
            raise RuntimeError("the worker has not been started")
        return self._process


def _tried(first: int, step: int) -> range:
    return range(first, min(first + step * PORTS_TRIED, LAST_PORT + 1), step)
