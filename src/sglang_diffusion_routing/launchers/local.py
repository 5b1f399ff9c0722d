"""Start the workers on this machine."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers import gpus
from sglang_diffusion_routing.launchers.config import LauncherConfig
from sglang_diffusion_routing.launchers.engine_command import OPTIONAL_FLAGS, Listening, engine_command
from sglang_diffusion_routing.launchers.leftovers import Run
from sglang_diffusion_routing.launchers.optional_flags import known_flags
from sglang_diffusion_routing.launchers.ports import LAST_PORT, Ports
from sglang_diffusion_routing.launchers.process import Spec, WorkerProcess

_log = structlog.get_logger(__name__)

PORTS_TRIED = 1000


@dataclass(frozen=True, slots=True)
class _Place:
    """What a slot has for as long as the router runs: its ports and its GPUs."""

    listening: Listening
    gpus: str | None


class LocalBackend:
    """Workers as processes of this machine (`base.Backend`); a slot keeps its ports, and so its URL."""

    keeps_url = True

    def __init__(self, config: LauncherConfig, environ: Mapping[str, str], log_dir: Path) -> None:
        """Make a backend.

        Args:
            environ: the router's environment, which workers inherit.
            log_dir: where the logs go unless the file says.
        """
        self._config = config
        self._environ = environ
        self._log_dir = Path(config.log_dir) if config.log_dir is not None else log_dir
        self._ports = Ports()
        self._run: Run | None = None
        self._places: list[_Place] = []
        self._flags: tuple[str, ...] = ()

    @property
    def slots(self) -> int:
        return self._config.num_workers

    async def prepare(self) -> None:
        try:
            self._run = await asyncio.to_thread(Run)
            if self._run.swept:
                _log.warning("leftovers_killed", processes=self._run.swept)
            assigned = await asyncio.to_thread(gpus.assign, self._config, self._environ, gpus.count)
            self._see_that_there_is_an_engine()
            self._places = [self._place(slot, ids) for slot, ids in enumerate(assigned)]
            self._flags = await known_flags(
                self._config.worker_command, self._config.model, OPTIONAL_FLAGS, self._environ
            )
        except BaseException:
            await self.aclose()
            raise

    def _see_that_there_is_an_engine(self) -> None:
        """See that what is to be called is a program: to try again, as after a death, would help nobody.

        Raises:
            BadSetting: it is none.
        """
        program, environ = self._config.worker_command[0], {**self._environ, **self._config.worker_env}
        if shutil.which(program, path=environ.get("PATH")) is None:
            raise BadSetting("launcher", f"finds no program {program!r}: install the engine, or set worker_command")

    def _place(self, slot: int, ids: str | None) -> _Place:
        config = self._config
        # Another router may have the first ones: its workers and these are then interleaved.
        port = self._ports.first_free(range(config.worker_base_port, LAST_PORT, 2)[slot : slot + PORTS_TRIED], 2)
        listening = Listening(
            config.worker_host,
            self._found(port, slot, "worker_base_port", config.worker_base_port),
            self._internal(slot, "master_port_base", config.master_port_base),
            self._internal(slot, "scheduler_port_base", config.scheduler_port_base),
        )
        return _Place(listening, ids)

    def _internal(self, slot: int, key: str, base: int) -> int:
        first = base + slot * self._config.internal_port_stride
        tried = range(first, min(first + PORTS_TRIED, LAST_PORT + 1))
        return self._found(self._ports.first_free(tried), slot, key, first)

    def _found(self, port: int | None, slot: int, key: str, first: int) -> int:
        if port is None:
            raise BadSetting("launcher", f"finds no free port for worker {slot} from {first} on ({key})")
        return port

    async def launch(self, slot: int) -> WorkerProcess:
        config, place = self._config, self._places[slot]
        assert self._run is not None
        return await WorkerProcess.start(
            Spec(
                url=place.listening.url("127.0.0.1"),
                command=engine_command(config, place.listening, self._flags),
                env=self._env(place),
                log=self._log_dir / f"worker-{place.listening.port}.log",
                log_max_bytes=config.log_max_bytes,
                token=self._run.token_of(slot),
                facts={"gpus": place.gpus},
            )
        )

    def _env(self, place: _Place) -> dict[str, str]:
        visible = {} if place.gpus is None else {gpus.VISIBLE: place.gpus}
        return {**self._environ, **visible, **self._config.worker_env}

    async def aclose(self) -> None:
        self._ports.close()
        if self._run is not None:
            self._run.close()


def default_log_dir(environ: Mapping[str, str]) -> Path:
    """Give the folder of the workers' logs, after the XDG Base Directory Specification."""
    base = environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        base = f"{home}/.local/state" if home.startswith("/") else tempfile.gettempdir()
    return Path(base) / "sglang-d-router" / "workers"
