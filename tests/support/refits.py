"""A fleet that is refit without a network: real core, real refitter, workers that load weights when told to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sglang_diffusion_routing.control.brackets import Brackets
from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.control.plan import Choose, Refit
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.control.resync import Resyncer
from sglang_diffusion_routing.control.sentinel import Sentinels
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended, Failure, WorkerApi
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core.events import LabelsSet, SentinelOpened
from sglang_diffusion_routing.core.refit import Mode, StepKind
from sglang_diffusion_routing.core.work import Lease, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Worker, WorkerUrl
from sglang_diffusion_routing.runtime.effects import Effects
from sglang_diffusion_routing.schemas import FanOutReply, RefitView
from sglang_diffusion_routing.store import SavedRefit
from support.fleet import RecordingFleet
from support.recorded import Recorded
from support.running import eventually

DONE = Answer(Ended.SUCCEEDED, 200, {"success": True, "message": "loaded"})
REFUSED = Answer(Ended.REFUSED, 400, {"success": False, "message": "no such path"})
REFUSED_WITH_200 = Answer(Ended.REFUSED, 200, {"success": False, "message": "it does not fit"})
LOST = Answer(Ended.LOST, 502, {"error": "the connection broke"}, failure=Failure.BROKEN)

PATIENCE_S = 5.0


@dataclass
class Loads(WorkerApi):
    """Takes the calls that would go to workers.

    sent: host of the worker, path and query, body; in the order of arrival.
    answers: what the worker of this host says to its next calls, one each; afterwards `DONE`.
    held: hosts that answer only when they are let go.
    weights: what each host has: of the last requests that it took, "base" before any; None if it does not say.
    """

    sent: list[tuple[str, str, bytes]] = field(default_factory=list)
    answers: dict[str, list[Answer | BaseException]] = field(default_factory=dict)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    weights: dict[str, str | None] = field(default_factory=dict)

    def hold(self, *hosts: str) -> None:
        for host in hosts:
            self.held[host] = asyncio.Event()

    def let_go(self, host: str) -> None:
        self.held.pop(host).set()

    @property
    def hosts(self) -> list[str]:
        """Who was called, in order."""
        return [host for host, _, _ in self.sent]

    async def send(self, url: WorkerUrl, call: Call) -> Answer:
        # The router's own bring their body along.
        given = b"" if call.content is None else call.content
        body = given if isinstance(given, bytes) else b"".join([chunk async for chunk in given])
        self.sent.append((url.host, call.target, body))
        if url.host in self.held:
            await self.held[url.host].wait()
        following = self.answers.get(url.host)
        answer = following.pop(0) if following else DONE
        if isinstance(answer, BaseException):
            raise answer
        if answer.ended is Ended.SUCCEEDED:
            self.weights[url.host] = body.decode("latin-1")
        return answer

    async def checksums(self, url: WorkerUrl, timeout_s: float) -> dict[str, str] | None:
        known = self.weights.get(url.host, "base")
        return None if known is None else {"transformer": known}

    async def adapters(self, url: WorkerUrl, timeout_s: float) -> str | None:
        return ""


@dataclass
class Shelf:
    """Keeps what is put, and writes down what was there at each flush."""

    kept: dict[str, SavedRefit] = field(default_factory=dict)
    flushed: list[dict[str, bool]] = field(default_factory=list)

    def put_refit(self, refit: SavedRefit) -> None:
        self.kept[refit.refit_id] = refit

    async def flush(self) -> bool:
        await asyncio.sleep(0)
        self.flushed.append({name: saved.is_open for name, saved in self.kept.items()})
        return True


@dataclass
class RefitWorld:
    """A refitter and everything that it works on."""

    fleet: RecordingFleet
    loads: Loads
    shelf: Shelf
    refitter: Refitter
    brackets: Brackets
    recorded: Recorded
    leases: dict[str, Lease] = field(default_factory=dict)

    def join(self, *hosts: str, group: str | None = None) -> list[Worker]:
        """Register workers that answer, by name; by default all serve the same model."""
        joined = [self.fleet.join(f"http://{host}:1") for host in hosts]
        for worker in joined:
            if group is not None:
                self.fleet.apply(LabelsSet(worker.worker_id, (("group", group),)))
        return joined

    def everybody(self) -> Sequence[Worker]:
        return list(self.fleet.pool.workers.values())

    def worker(self, host: str) -> Worker:
        return next(worker for worker in self.everybody() if worker.url.host == host)

    def occupy(self, *hosts: str) -> None:
        """Give each of these workers a piece of work."""
        for host in hosts:
            others = frozenset(worker.worker_id for worker in self.everybody() if worker.url.host != host)
            lease = self.fleet.acquire(WorkSpec(avoid=others), _Nobody())
            assert isinstance(lease, Lease)
            assert lease.worker.url.host == host
            self.leases[host] = lease

    def finish(self, host: str) -> None:
        """End a worker's piece of work."""
        self.fleet.release(self.leases.pop(host), Result.OK, 200)

    def pass_time(self, seconds: float) -> None:
        """Let drains run into their limits."""
        self.fleet.instant_s += seconds
        self.fleet.tick()

    def run(
        self, version: str | None = "v1", *, choose: Choose | None = None, **options: object
    ) -> asyncio.Task[FanOutReply]:
        """Begin a refit of everybody, or of whom `choose` gives."""
        wanted = refit(version, **options)  # type: ignore[arg-type]
        return asyncio.ensure_future(self.refitter.run(self.everybody if choose is None else choose, wanted))

    def begin(
        self, version: str | None = "v1", content: bytes = b"", *, choose: Choose | None = None, **options: object
    ) -> asyncio.Task[FanOutReply]:
        """Begin a refit in parts of everybody, or of whom `choose` gives."""
        wanted = refit(version, kind=StepKind.TENSOR, content=content, **options)  # type: ignore[arg-type]
        return asyncio.ensure_future(self.brackets.begin(self.everybody if choose is None else choose, wanted))

    async def part(self, content: bytes, *hosts: str) -> FanOutReply:
        """Send one part to everybody, or to these."""
        bracket = self.brackets.find(self.everybody())
        only = frozenset(self.worker(host).worker_id for host in hosts) if hosts else None
        with bracket.request(), Spool.of(content) as body:
            return bracket.took(await bracket.part(only, Outgoing("POST", TENSOR, body)), only)

    async def commit(self, content: bytes = b"") -> FanOutReply:
        bracket = self.brackets.find(self.everybody())
        with bracket.request(), Spool.of(content) as body:
            return await self.brackets.commit(bracket, None, Outgoing("POST", TENSOR, body))

    async def until(self, holds: Callable[[], bool]) -> None:
        async def read() -> bool:
            return holds()

        await eventually(read, bool, within_s=PATIENCE_S)

    async def until_called(self, *hosts: str) -> None:
        """Wait until exactly these workers were called, in any order."""
        await self.until(lambda: sorted(self.loads.hosts) == sorted(hosts))

    def shows(self) -> RefitView:
        """Give the newest refit as it is shown."""
        return self.refitter.log.newest(1)[0]

    def rows(self) -> dict[str, str]:
        """Say how far each worker is in the newest refit."""
        newest = self.refitter.log.newest(1)
        return {_host(row.worker_url): row.status for view in newest for row in view.workers}

    def weights(self) -> dict[str, tuple[object, str]]:
        """Say what each worker has loaded, and whether that is current."""
        return {worker.url.host: (worker.loaded, worker.currency.value) for worker in self.everybody()}


class _Nobody:
    def granted(self, lease: Lease) -> None: ...

    def refused(self, error: Exception) -> None: ...


DISK = "/update_weights_from_disk"
TENSOR = "/update_weights_from_tensor"


def refit(
    version: str | None = "v1",
    *,
    kind: StepKind = StepKind.DISK,
    content: bytes = b'{"model_path":"x"}',
    mode: Mode = Mode.DRAIN,
    at_once: int | None = None,
    admit_new: bool = False,
    drain_limit_s: float = 5.0,
) -> Refit:
    """Give a request for a refit."""
    target = TENSOR if kind is StepKind.TENSOR else DISK
    at_once = 1 if mode is Mode.ROLLING and at_once is None else at_once
    outgoing = Outgoing("POST", target, Spool.of(content), {"content-type": "application/json"})
    kept = b"" if kind is StepKind.TENSOR else content
    return Refit(kind, outgoing, version, drain_limit_s, Pace(mode, at_once, admit_new), kept)


def statuses(reply: FanOutReply) -> dict[str, int]:
    """Give the status of each row, by host."""
    return {_host(row.worker_url): row.status_code for row in reply.results}


def _host(worker_url: str) -> str:
    return worker_url.removeprefix("http://").removesuffix(":1")


@asynccontextmanager
async def refit_world(
    *hosts: str, part_limit_s: float = 60.0, call_limit_s: float = 5.0, resync: bool = False
) -> AsyncIterator[RefitWorld]:
    """Build a world with these workers, which have begun to serve."""
    fleet, loads, shelf = RecordingFleet(resync=resync), Loads(), Shelf()
    baselines = Baselines(fleet, loads, call_limit_s=call_limit_s)
    recorded = Recorded()
    refitter = Refitter(
        fleet,
        loads,
        baselines,
        call_limit_s=call_limit_s,
        max_reply_bytes=4096,
        shelf=shelf,
        tracer=recorded.tracer,
    )
    resyncer = Resyncer(fleet, loads, baselines, call_limit_s=call_limit_s, max_reply_bytes=4096)
    prober = Prober(fleet, loads, interval_s=10.0, timeout_s=2.0, rng=random.Random(0))
    sentinels = Sentinels(fleet.apply, lambda worker_id, before_s: 0, connect_timeout_s=2.0)
    effects = Effects(fleet, loads, prober, sentinels, refitter, resyncer, call_limit_s=call_limit_s)

    def run_command(command: do.Command) -> None:
        fleet.commands.append(command)
        if isinstance(command, do.UpdateWeights | do.ResyncWeights):
            effects.run(command)
        elif isinstance(command, do.OpenSentinel):
            fleet.apply(SentinelOpened(command.worker_id, command.incarnation))

    fleet.run_command = run_command
    world = RefitWorld(fleet, loads, shelf, refitter, Brackets(refitter, part_limit_s=part_limit_s), recorded)
    world.join(*hosts)
    try:
        yield world
    finally:
        for part in (refitter, effects, baselines, prober, sentinels):
            await part.aclose()
