"""Say on a command line what a worker is to do and where it is to listen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sglang_diffusion_routing.launchers.config import LauncherConfig

OPTIONAL_FLAGS = ("--strict-ports", "--sleep-on-idle")
"""A port that was reserved must not be left for another without a word, and an idle worker must not burn a core; an
engine that does not know one of them is started without it."""

_ANY = frozenset({"", "0.0.0.0", "::", "[::]"})


@dataclass(frozen=True, slots=True)
class Listening:
    """The address and the ports that a worker is to have."""

    host: str
    port: int
    master_port: int
    scheduler_port: int

    def url(self, own_host: str) -> str:
        """Give the worker's URL; `own_host` stands for a host that means every address of the machine."""
        host = own_host if self.host in _ANY else self.host
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"


def engine_command(config: LauncherConfig, listening: Listening, flags: Sequence[str]) -> list[str]:
    """Give the command that starts a worker.

    Args:
        flags: those of `OPTIONAL_FLAGS` that the engine knows.
    """
    gpu_flags = ["--num-gpus", str(config.num_gpus_per_worker)] if config.num_gpus_per_worker else []
    return [
        *config.worker_command,
        "--model-path",
        config.model,
        *gpu_flags,
        "--host",
        listening.host,
        "--port",
        str(listening.port),
        "--master-port",
        str(listening.master_port),
        "--scheduler-port",
        str(listening.scheduler_port),
        *flags,
        *config.worker_extra_args,
    ]
