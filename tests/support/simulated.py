"""Workers without a network: processes that come and go, have weights, sleep, and do one thing after the other.

What is true of a process is written here and nowhere in the router, so that one can be held against the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field

from sglang_diffusion_routing.control.sentinel import News
from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, Failure, WorkerApi
from sglang_diffusion_routing.core.events import SentinelEnded, SentinelLost, SentinelOpened
from sglang_diffusion_routing.core.worker import Watch, Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.tasks import Tasks

BASE = "base"
CALL_S = 0.02
"""What a command takes; its request is on its way for a tenth of that."""
NEWS_S = 0.05
"""From the end of a silent connection to the news of what that means."""

RELEASE, RESUME = "/release_memory_occupation", "/resume_memory_occupation"
DISK, TENSOR, CHECKSUM = "/update_weights_from_disk", "/update_weights_from_tensor", "/get_weights_checksum"


class Asleep(Exception):
    """The process sleeps, and does not work."""


class Gone(Exception):
    """There is no process, or it ended before it was done."""


@dataclass
class Process:
    """One life of a worker. weights: the name of what it has loaded."""

    weights: str = BASE
    asleep: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class SimulatedWorker:
    """An address at which a process may answer.

    faults: by route, what becomes of the next call: "refuse", "tear" (of weights: refuse with half of them loaded),
    "drop" (do nothing and break off), "lose" (do it and break off). slow_s: what a call takes longer. silent: its
    probes get no answer. unsure: the router cannot know whether it sleeps.
    """

    url: str
    process: Process | None = field(default_factory=Process)
    faults: dict[str, str] = field(default_factory=dict)
    slow_s: float = 0.0
    silent: bool = False
    unsure: bool = False

    def crash(self) -> None:
        if self.process is not None:
            self.process.ended.set()
            self.process = None

    def start(self) -> None:
        """Start with the weights that every process starts with, if it does not run."""
        if self.process is None:
            self.process = Process()

    def heal(self) -> None:
        """Take all faults off; a process is not started."""
        self.faults.clear()
        self.slow_s = 0.0
        self.silent = False

    async def generate(self, seconds: float) -> str:
        """Make a sample, after all that came before, and give the weights it was made on.

        Raises:
            Asleep, Gone: there is none.
        """
        process = self.process
        if process is None:
            raise Gone
        async with process.turn:
            if process.asleep:
                raise Asleep
            weights = process.weights
            await _sleep(process, seconds)
            assert process.weights == weights, "weights changed under a generation"
        return weights

    async def carry_out(self, process: Process, call: Call) -> Answer:
        """Do what a call asks for, after all that came before.

        Raises:
            Gone: no answer comes.
        """
        path = call.target.partition("?")[0]
        content = await _content(call)
        if "content-length" in call.headers and int(call.headers["content-length"]) != len(content):
            raise Gone
        if path == "/v1/models":
            return _said({"data": [{"id": "m", "task_type": "T2I"}]})
        if path == "/v1/list_loras":
            return _said({"active": []})
        await _sleep(process, CALL_S / 10)
        async with process.turn:
            await _sleep(process, CALL_S + self.slow_s)
            fault = self.faults.pop(path, "")
            if fault == "drop":
                raise Gone
            answer = _do(process, path, content, fault)
            if fault == "lose":
                raise Gone
        return answer


def _do(process: Process, path: str, content: bytes, fault: str) -> Answer:
    if fault == "refuse":
        return _refused("refused")
    if path in {RELEASE, RESUME}:
        process.asleep = path == RELEASE
        return _said({"success": True, "sleeping": process.asleep, "message": "done"})
    if path == CHECKSUM:
        return _said({"transformer": hashlib.sha256(process.weights.encode()).hexdigest()})
    if path in {DISK, TENSOR}:
        if process.asleep:
            return _refused("Cannot update weights while the server is sleeping. Call resume_memory_occupation first.")
        name = json.loads(content)["model_path"] if path == DISK else content.decode()
        process.weights = f"half of {name}" if fault == "tear" else name
        return _refused("torn") if fault == "tear" else _said({"success": True})
    raise AssertionError(f"nobody should call {path}")


def _said(body: object) -> Answer:
    return Answer(Ended.SUCCEEDED, 200, body)


def _refused(why: str) -> Answer:
    return Answer(Ended.REFUSED, 400, {"success": False, "message": why})


async def _content(call: Call) -> bytes:
    if isinstance(call.content, AsyncIterable):
        return b"".join([chunk async for chunk in call.content])
    return call.content or b""


async def _sleep(process: Process, seconds: float) -> None:
    """Let time pass for a process; Gone if it ends meanwhile, or has ended."""
    try:
        async with asyncio.timeout(seconds):
            await process.ended.wait()
    except TimeoutError:
        return
    raise Gone


class SimulatedApi(WorkerApi):
    """The calls of the router, on simulated workers. A worker goes on with what its caller has given up."""

    def __init__(self, workers: dict[str, SimulatedWorker]) -> None:
        self._workers = workers
        self._tasks = Tasks()

    @property
    def under_way(self) -> int:
        """Calls that a worker has not finished, whoever still waits for them."""
        return len(self._tasks)

    async def aclose(self) -> None:
        await self._tasks.cancel_all()

    async def health(self, url: WorkerUrl, timeout_s: float) -> Answer:
        worker = self._workers[str(url)]
        await asyncio.sleep(timeout_s if worker.silent else CALL_S / 10)
        if worker.process is None:
            return _lost(Failure.UNREACHABLE)
        return _lost(Failure.TIMED_OUT) if worker.silent else _said({"status": "ok"})

    async def send(self, url: WorkerUrl, call: Call) -> Answer:
        worker = self._workers[str(url)]
        if worker.process is None:
            return _lost(Failure.UNREACHABLE)
        carrying_out = self._tasks.spawn(worker.carry_out(worker.process, call), name=call.target, on_error=_expected)
        try:
            async with asyncio.timeout(call.timeout_s):
                return await asyncio.shield(carrying_out)
        except TimeoutError:
            return _lost(Failure.TIMED_OUT)
        except Gone:
            return _lost(Failure.BROKEN)


def _lost(failure: Failure) -> Answer:
    return Answer(Ended.LOST, 502, {"error": failure.value}, failure)


def _expected(error: BaseException) -> None:
    if not isinstance(error, Gone):
        raise error


class SimulatedSentinels:
    """Tells of the end of processes, as silent connections do."""

    def __init__(self, workers: dict[str, SimulatedWorker], report: Callable[[News], None]) -> None:
        self._workers = workers
        self._report = report
        self._tasks = Tasks()
        self._watching: dict[WorkerId, asyncio.Task[None]] = {}
        self.ended_total = 0

    async def aclose(self) -> None:
        await self._tasks.cancel_all()

    def open(self, worker: Worker) -> None:
        self.close(worker.worker_id)
        self._watching[worker.worker_id] = self._tasks.spawn(self._watch(worker), name="sentinel")

    def close(self, worker_id: WorkerId) -> None:
        task = self._watching.pop(worker_id, None)
        if task is not None:
            task.cancel()

    def cut(self, worker: Worker) -> None:
        """End a worker's silent connection while its process and other connections live on."""
        if worker.watch is Watch.STANDS:
            self.close(worker.worker_id)
            self._report(SentinelEnded(worker.worker_id, worker.incarnation))
            self._report(SentinelLost(worker.worker_id, worker.incarnation, 1))

    async def _watch(self, worker: Worker) -> None:
        worker_id, incarnation = worker.worker_id, worker.incarnation
        await asyncio.sleep(CALL_S / 10)
        process = self._workers[worker_id].process
        if process is not None:
            self._report(SentinelOpened(worker_id, incarnation))
            await process.ended.wait()
            self._report(SentinelEnded(worker_id, incarnation))
            await asyncio.sleep(NEWS_S)
        self._watching.pop(worker_id, None)
        self.ended_total += 1
        self._report(SentinelLost(worker_id, incarnation, 0))
