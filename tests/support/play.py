"""Plays one schedule on a fleet of its own and says what went wrong."""

import asyncio
import contextlib
import random
import signal
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from sglang_diffusion_routing.sim.faults import Faults
from sglang_diffusion_routing.sim.settings import SimSettings
from support.forked import ForkedRouter, ForkedSim
from support.nursery import Nursery
from support.oracle import Sample
from support.schedule import CHANGES_WEIGHTS, LATE, WORKERS, Schedule, Step
from support.trainer import Answer, RouterGone, Trainer, is_success

T = TypeVar("T")

CLIENTS = 5
ANSWER_S = 40.0
"""No request and no call may take longer: what a schedule breaks is whole again after some seconds."""
HEALED_S = 30.0
FAULTS_SHOWN = 5

REFITS = ["/update_weights", "/v1/set_lora", "/v1/merge_lora", "/v1/unmerge_lora"]
FAULTS: dict[str, dict[str, Any]] = {
    "refuse refits": {"refuse_refits": True},
    "spoil refits": {"spoil_refits": True},
    "lose a refit's answer": {"only_paths": REFITS, "cut_next": 1},
    "fail a refit": {"only_paths": REFITS, "fail_next": 1},
}
SIM_FLAGS = ("--refit-seconds", "0.06", "--overhead-seconds", "0.012", "--seconds-per-mpx-step", "0.5")
ROUTER_FLAGS = ("--health-check-interval", "0.5", "--probe-timeout", "0.5", "--seed", "1")
CUT = (httpx2.ReadError, httpx2.RemoteProtocolError)
SERVED = {200, 502, 503}
"""What generation may end with; 502 and 503 say that no worker could do it."""


@dataclass
class Report:
    """How a schedule went.

    faults: sentences, none when all is well; violations: those about samples on wrong weights. statuses: how often
    requests ended how. output: what the router said.
    """

    schedule: Schedule
    faults: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    output: str = ""

    def __str__(self) -> str:
        lines = [str(self.schedule), f"  replies: {dict(self.statuses)}", *(f"  {line}" for line in self.log)]
        if self.faults:
            lines += [f"  WRONG ({len(self.faults)}): {fault}" for fault in self.faults[:FAULTS_SHOWN]]
            lines += ["the router's log:", self.output]
        return "\n".join(lines)


async def play(nursery: Nursery, checkpoints: Sequence[Path], schedule: Schedule, program: str = "router") -> Report:
    """Play a schedule to its end.

    Args:
        program: "router", or "unfenced" for the one that must be found out.
    """
    report = Report(schedule)
    folder = nursery.new_folder()
    fleet = [ForkedSim(nursery, f"w{number}", *SIM_FLAGS) for number in range(WORKERS + 1)]
    timeout = httpx2.Timeout(ANSWER_S)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    router = ForkedRouter(nursery, *ROUTER_FLAGS, "--state", str(folder / "state.db"), program=program)
    try:
        await asyncio.gather(*(worker.start() for worker in fleet))
        await router.start("--worker-urls", *(worker.url for worker in fleet[:WORKERS]))
        async with httpx2.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
            await _Play(report, router, fleet, client, checkpoints).run()
    except Exception as failure:  # noqa: BLE001  (one schedule's end is not that of the others)
        known = isinstance(failure, AssertionError)
        report.faults.append(str(failure) if known else "".join(traceback.format_exception(failure)))
    finally:
        report.output = router.output()
        if "Traceback" in report.output:
            report.faults.append("the router's log has a traceback")
        for process in (*fleet, router):
            process.kill()
    return report


class _Play:
    """One schedule under way.

    `weights` is held by whoever changes weights, by refit or by a lie about one: lies to the trainer itself are not
    the router's to find out.
    """

    def __init__(
        self,
        report: Report,
        router: ForkedRouter,
        fleet: Sequence[ForkedSim],
        client: httpx2.AsyncClient,
        checkpoints: Sequence[Path],
    ) -> None:
        self._report = report
        self._schedule = report.schedule
        self._router = router
        self._now_s = router.now_s
        self._fleet = fleet
        self._client = client
        self._rng = random.Random(report.schedule.seed)
        self._trainer = Trainer(router, client, checkpoints, self._rng, SimSettings())
        self._weights = asyncio.Lock()
        self._whole = [asyncio.Lock() for _ in fleet]
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._under_way = 0
        self._over = False

    async def run(self) -> None:
        """Play all lanes, bring everything back, and look at what is there."""
        await self._eventually(self._statuses, lambda found: set(found.values()) == {"active"}, "the fleet to begin")
        clients = [asyncio.create_task(self._be_client(number)) for number in range(CLIENTS)]
        schedule = self._schedule
        steps = [schedule.trainer, schedule.router, *schedule.workers]
        lanes = [asyncio.create_task(self._play_lane(lane)) for lane in steps]
        try:
            await asyncio.gather(*lanes)
            await self._heal()
            await self._check_healed()
            self._over = True
            await asyncio.gather(*clients)
            await self._check_idle()
        finally:
            for task in (*lanes, *clients):
                task.cancel()
            self._report.violations = self._trainer.oracle.violations()
            self._report.faults += self._report.violations

    async def _play_lane(self, lane: Sequence[Step]) -> None:
        for step in lane:
            await asyncio.sleep(step.pause_s)
            begun_s = self._now_s()
            outcome: object = "not ended"
            try:
                outcome = await self._do(step)
            except RouterGone:
                outcome = "the router went away"
            finally:
                self._report.log.append(f"{begun_s:.3f} to {self._now_s():.3f} s: {step}: {_short(outcome)}")

    async def _do(self, step: Step) -> object:
        match step.action:
            case "kill the router":
                return await self._router.kill_and_restart(step.for_s)
            case "sleep and wake":
                slept = await self._trainer.call("POST", "/release_memory_occupation")
                await asyncio.sleep(step.for_s)
                return slept, await self._trainer.call("POST", "/resume_memory_occupation")
            case "remove and add again":
                force = "?force=true" if step.choice < 0.5 else ""
                removed = await self._trainer.call("DELETE", f"/workers/{self._fleet[step.worker].url}{force}")
                await asyncio.sleep(step.for_s)
                return removed, await self._add(step.worker)
            case "add the late worker":
                return await self._add(LATE)
            case "hold and open":
                held = await self._put(step.worker, {"state": "drained"})
                await asyncio.sleep(step.for_s)
                return held, await self._put(step.worker, {"state": "active"})
            case "reported refit":
                return await self._reported_refit(step)
            case action if action in CHANGES_WEIGHTS:
                async with self._weights:
                    return await self._trainer.refit(step.action, step.mode, self._fleet)
            case _:
                async with self._whole[step.worker]:
                    return await self._break(step, self._fleet[step.worker])

    async def _add(self, number: int) -> Answer:
        return await self._trainer.call("POST", "/workers", {"url": self._fleet[number].url})

    async def _put(self, number: int, body: dict[str, Any]) -> Answer:
        return await self._trainer.call("PUT", f"/workers/{self._fleet[number].url}", body)

    async def _reported_refit(self, step: Step) -> object:
        """Push weights past the router as a careful trainer does: nobody generates, and nothing else goes wrong."""
        async with self._weights, _all(self._whole):
            self._may_send.clear()
            try:
                await self._eventually(self._count_under_way, lambda count: count == 0, "running work to end")
                registered = [worker for worker in self._fleet if worker.url in await self._statuses()]
                return await self._trainer.refit(step.action, step.mode, registered)
            finally:
                self._may_send.set()

    async def _break(self, step: Step, worker: ForkedSim) -> object:
        """Let something go wrong with a worker, and make it well again."""
        if step.action in FAULTS:
            return await self._with_faults(worker, step.for_s, **FAULTS[step.action])
        match step.action:
            case "kill":
                await self._restart(worker, step.for_s)
            case "kill, other base":
                await self._restart(worker, step.for_s, "--weights-seed", "7")
            case "kill, refuse at first":
                await self._restart(worker, 0.0, "--faults", '{"refuse_refits": true}')
                await asyncio.sleep(step.for_s)
                await self._set_faults(worker, refuse_refits=False)
            case "kill, misload at first":
                return await self._misload(step, worker)
            case "stop":
                worker.signal(signal.SIGSTOP)
                await asyncio.sleep(step.for_s)
                worker.signal(signal.SIGCONT)
            case "die in generation":
                worker.is_dying = True
                # It may die of a generation that is under way before it has answered this.
                with contextlib.suppress(httpx2.TransportError):
                    await self._set_faults(worker, die_in_generation=True)
                await asyncio.sleep(step.for_s)
                await worker.restart()
            case "sleep directly":
                await self._client.post(f"{worker.url}/release_memory_occupation")
                await asyncio.sleep(step.for_s)
                await self._client.post(f"{worker.url}/resume_memory_occupation")
            case _:
                raise AssertionError(step.action)
        return None

    async def _misload(self, step: Step, worker: ForkedSim) -> object:
        """Let a worker that has come back claim a replay that it has not done."""
        async with self._weights:
            if not self._trainer.is_sure:
                return "left out: the router may be refitting by itself"
            await self._restart(worker, 0.0, "--faults", '{"misload_refits": true}')
            await asyncio.sleep(step.for_s)
            await self._set_faults(worker, misload_refits=False)
        return None

    async def _restart(self, worker: ForkedSim, down_s: float, *flags: str) -> None:
        worker.kill()
        await asyncio.sleep(down_s)
        await worker.start(*flags)

    async def _with_faults(self, worker: ForkedSim, for_s: float, **faults: Any) -> None:
        await self._set_faults(worker, **faults)
        await asyncio.sleep(for_s)
        await self._set_faults(worker, **Faults().model_dump())

    async def _set_faults(self, worker: ForkedSim, **faults: Any) -> None:
        reply = await self._client.post(f"{worker.url}/sim/faults", json=faults)
        assert reply.status_code == 200, reply.text

    async def _be_client(self, number: int) -> None:
        """Generate until the schedule is over."""
        rng = random.Random(f"{self._schedule.seed} {number}")
        while not self._over:
            await self._may_send.wait()
            self._under_way += 1
            try:
                await self._generate(rng)
            finally:
                self._under_way -= 1
            await asyncio.sleep(rng.uniform(0.0, 0.06))

    async def _generate(self, rng: random.Random) -> None:
        body = {
            "prompt": "a boat",
            "width": 64,
            "height": 64,
            "num_inference_steps": rng.choice([4, 8, 16]),
            "seed": rng.randrange(1000),
        }
        sent_s, deaths = self._now_s(), self._deaths()
        try:
            reply = await self._client.post(f"{self._router.url}/rollout/generate", json=body)
        except httpx2.TransportError as error:
            self._report.statuses[type(error).__name__] += 1
            # A reply that has begun ends where its worker dies.
            dead = self._deaths() > deaths or any(worker.is_dying for worker in self._fleet)
            cut = dead and isinstance(error, CUT)
            if not cut and not self._router.was_down(sent_s):
                self._report.faults.append(f"a request sent at {sent_s:.3f} s was lost: {error!r}")
            await asyncio.sleep(0.02)
            return
        self._report.statuses[str(reply.status_code)] += 1
        if reply.status_code not in SERVED:
            self._report.faults.append(
                f"a request from {sent_s:.3f} to {self._now_s():.3f} s "
                f"ended with {reply.status_code}: {reply.text[:300]}"
            )
        if reply.status_code != 200:
            await asyncio.sleep(0.02)
            return
        self._trainer.oracle.samples.append(
            Sample(
                sent_s,
                self._now_s(),
                reply.headers.get("x-sglang-router-weight-version", "(none)"),
                reply.headers["x-sim-weights"],
                reply.headers["x-sim-worker"],
            )
        )

    async def _count_under_way(self) -> int:
        return self._under_way

    def _deaths(self) -> int:
        return sum(worker.deaths for worker in self._fleet)

    async def _statuses(self) -> dict[str, str]:
        answer = await self._trainer.call("GET", "/workers")
        if answer.status == 0:
            raise RouterGone
        return {worker["url"]: worker["status"] for worker in answer.body["workers"]}

    async def _heal(self) -> None:
        """Take back all that was done to the fleet, as an operator does."""
        for number, worker in enumerate(self._fleet):
            worker.signal(signal.SIGCONT)
            if not worker.is_running:
                await worker.start()
            await self._set_faults(worker, **Faults().model_dump())
            await self._client.post(f"{worker.url}/resume_memory_occupation")
            await self._add(number)
            await self._put(number, {"state": "active"})
            await self._put(number, {"is_dead": False})
        await self._trainer.call("POST", "/resume_memory_occupation")
        await self._eventually(self._statuses, self._can_all_be_refit, "every worker to be there")

    def _can_all_be_refit(self, statuses: dict[str, str]) -> bool:
        ready = {"active", "stale", "suspect"}
        return len(statuses) == len(self._fleet) and set(statuses.values()) <= ready

    async def _check_healed(self) -> None:
        """Refit once more: the whole fleet must be on that version, by its own account and by the router's."""
        async with self._weights:
            version, answer = await self._trainer.final_refit()
        assert answer is not None
        assert answer.status == 200, f"the last refit: {answer}"
        rows = answer.body["results"]
        assert (len(rows), all(map(is_success, rows))) == (len(self._fleet), True), f"the last refit: {answer}"
        workers = (await self._trainer.call("GET", "/workers")).body["workers"]
        shown = {(worker["status"], worker["weight_version"]) for worker in workers}
        assert shown == {("active", version)}, f"after the last refit: {shown}"
        wanted = self._trainer.oracle.weights[version]
        for worker in self._fleet:
            body = {"module_names": ["transformer"]}
            reply = await self._client.post(f"{worker.url}/get_weights_checksum", json=body)
            assert reply.json() == {"transformer": wanted}, f"{worker.name} has {reply.text}, not {version}"

    async def _check_idle(self) -> None:
        async def read() -> list[int]:
            answer = await self._trainer.call("GET", "/workers")
            return [worker["active_requests"] for worker in answer.body["workers"]]

        await self._eventually(read, lambda leases: not any(leases), "every lease to end")

    async def _eventually(self, read: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], what: str) -> None:
        deadline_s = self._now_s() + HEALED_S
        while not wanted(value := await read()):
            assert self._now_s() < deadline_s, f"waited {HEALED_S:g} s for {what}: {value}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _all(locks: Sequence[asyncio.Lock]) -> AsyncIterator[None]:
    """Hold all of them; always in the same order, so that two who want them all do not wait for each other."""
    held = 0
    try:
        for lock in locks:
            await lock.acquire()
            held += 1
        yield
    finally:
        for lock in locks[:held]:
            lock.release()


def _short(outcome: object) -> str:
    text = ", then ".join(map(str, outcome)) if isinstance(outcome, tuple) else str(outcome)
    return text if len(text) < 600 else text[:600] + "..."
