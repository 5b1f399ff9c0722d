"""Start the workers by a command of the operator's: srun, kubectl, ssh, a script."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import InvalidWorkerUrl
from sglang_diffusion_routing.launchers.base import Ended, Fact, LaunchFailed
from sglang_diffusion_routing.launchers.config import LauncherConfig
from sglang_diffusion_routing.launchers.leftovers import Run
from sglang_diffusion_routing.launchers.process import Spec, WorkerProcess
from sglang_diffusion_routing.launchers.templates import fill
from sglang_diffusion_routing.tasks import spawn

_log = structlog.get_logger(__name__)

STOP_LIMIT_S = 60.0
"""How long a stop command may take: a scheduler that is asked to cancel a job answers in seconds."""

LOOK_S = 0.1
"""How often the output is looked at for the URL."""

_LOOK_BYTES = 65_536


class ExternalBackend:
    """Workers that a command stands for (`base.Backend`): as long as it runs, there is a worker.

    Its process is guarded as a local worker's is, so what it started on this machine goes with the router. What it
    started elsewhere is for the command, or the stop command, to end.
    """

    def __init__(self, config: LauncherConfig, environ: Mapping[str, str], log_dir: Path) -> None:
        """Make a backend.

        Args:
            environ: the router's environment, which commands inherit.
            log_dir: where the logs go unless the file says.
        """
        self._config = config
        self._environ = {**environ, **config.worker_env}
        self._log_dir = Path(config.log_dir) if config.log_dir is not None else log_dir
        self._run: Run | None = None

    @property
    def slots(self) -> int:
        return self._config.num_workers

    @property
    def keeps_url(self) -> bool:
        return self._config.url_pattern is None

    async def prepare(self) -> None:
        self._run = await asyncio.to_thread(Run)
        if self._run.swept:
            _log.warning("leftovers_killed", processes=self._run.swept)

    async def launch(self, slot: int) -> ExternalWorker:
        config = self._config
        assert config.command is not None
        assert self._run is not None
        values = self._values(slot)
        spec = Spec(
            url="",
            command=fill(config.command, values),
            env=self._environ,
            log=self._log_dir / f"external-{slot}-{values['port']}.log",
            log_max_bytes=config.log_max_bytes,
            token=self._run.token_of(slot),
            facts={"command": config.command[0]},
        )
        process = await WorkerProcess.start(spec)
        worker = ExternalWorker(process, self._stop_command(values), self._environ)
        try:
            worker.url = await self._url(process, values)
        except BaseException:
            worker.kill()
            await asyncio.shield(worker.wait())
            raise
        return worker

    def _values(self, slot: int) -> dict[str, str | int]:
        config = self._config
        stride = slot * config.internal_port_stride
        return {
            "index": slot,
            "model": config.model,
            "gpus": config.num_gpus_per_worker,
            "host": config.worker_host,
            "port": config.worker_base_port + 2 * slot,
            "master_port": config.master_port_base + stride,
            "scheduler_port": config.scheduler_port_base + stride,
        }

    def _stop_command(self, values: Mapping[str, str | int]) -> list[str] | None:
        command = self._config.stop_command
        return None if command is None else fill(command, values)

    async def _url(self, process: WorkerProcess, values: Mapping[str, str | int]) -> str:
        """Give the worker's URL: from its template, or as soon as its output says it.

        Raises:
            LaunchFailed: it is no worker's URL, or the command ended before it said one.
        """
        config = self._config
        if config.url_pattern is None:
            text = fill([config.url], values)[0]
        else:
            text = await _said(process, re.compile(config.url_pattern, re.MULTILINE))
        try:
            return str(WorkerUrl.parse(text))
        except InvalidWorkerUrl as error:
            raise LaunchFailed(f"has no URL that can be used: {error.message}", process.tail(20)) from None

    async def aclose(self) -> None:
        if self._run is not None:
            self._run.close()


async def _said(process: WorkerProcess, pattern: re.Pattern[str]) -> str:
    """Wait until the output of a process matches, and give what the first group of the pattern matched."""
    assert process.log is not None
    log = Path(process.log)
    ending = spawn(process.wait(), name="external-ended")
    try:
        while True:
            ended = ending.done()
            match = pattern.search(_beginning(log))
            if match is not None:
                return match[1]
            if ended:
                end = ending.result()
                raise LaunchFailed(f"{end.reason} before it said its URL", end.tail)
            await asyncio.wait([ending], timeout=LOOK_S)
    finally:
        ending.cancel()


def _beginning(log: Path) -> str:
    """Give the whole lines at the beginning of a log; one that is being written may be half a URL."""
    try:
        with log.open("rb") as file:
            text = file.read(_LOOK_BYTES)
    except OSError:
        return ""
    return text[: text.rfind(b"\n") + 1].decode(errors="replace")


class ExternalWorker:
    """A worker that a command stands for (`base.Launched`)."""

    def __init__(self, process: WorkerProcess, stop: Sequence[str] | None, environ: Mapping[str, str]) -> None:
        self.url = ""
        self._process = process
        self._stop = stop
        self._environ = environ
        self._ended = spawn(self._watch(), name="external-worker")

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def log(self) -> str | None:
        return self._process.log

    def facts(self) -> Mapping[str, Fact]:
        return self._process.facts()

    def tail(self, lines: int) -> tuple[str, ...]:
        return self._process.tail(lines)

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def terminate(self, grace_s: float) -> Ended:
        await self._process.terminate(grace_s)
        return await self.wait()

    def kill(self) -> None:
        self._process.kill()

    async def _watch(self) -> Ended:
        """Wait for the command's end, and then for the stop command's: nothing is left, here or elsewhere."""
        ended = await self._process.wait()
        if self._stop is None:
            return ended
        fault = await _run(self._stop, self._environ)
        return Ended(f"{ended.reason}; its stop command {fault}", ended.tail) if fault else ended


async def _run(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Run a stop command, and give half a sentence if it failed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the router's terminal must not end it
            env=dict(environ),
        )
    except OSError as error:
        return f"could not be started: {error.strerror or error}"
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"took longer than {STOP_LIMIT_S:g} s"
    return f"ended with status {status}" if status else ""
