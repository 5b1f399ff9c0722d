"""A router that is killed at random points and started again on its state file has lost nothing it has answered for."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
import pytest

from sglang_diffusion_routing.sim.settings import SimSettings
from support.forked import ForkedRouter, ForkedSim
from support.nursery import Nursery
from support.oracle import Sample
from support.trainer import RouterGone, Trainer, is_success, write_checkpoints

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

T = TypeVar("T")

LIVES, ROUNDS = 4, 25
SIM_FLAGS = ("--model", "wan", "--refit-seconds", "0.05", "--overhead-seconds", "0.02", "--release-seconds", "0.03")
ROUTER_FLAGS = ("--health-check-interval", "0.3", "--probe-timeout", "2", "--log-level", "info")
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@dataclass
class Known:
    """What the router has answered for about one worker; None where an answer is missing."""

    registered: bool | None = False
    labels: dict[str, str] | None = None
    max_concurrency: int | None = None
    asleep: bool | None = False
    held: bool | None = False


@dataclass
class Video:
    """A job: its owner, and whether that was removed since, None where nobody can tell."""

    url: str
    gone: bool | None


@dataclass
class World:
    """A fleet, a router that dies, and everything that it has answered for.

    removed_now: workers whose removal was asked for since the router's last death.
    """

    router: ForkedRouter
    client: httpx2.AsyncClient
    workers: list[ForkedSim]
    trainer: Trainer
    rng: random.Random
    known: dict[str, Known] = field(default_factory=dict)
    jobs: dict[str, Video] = field(default_factory=dict)
    removed_now: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known = {worker.url: Known() for worker in self.workers}

    async def register(self) -> None:
        """Register a worker, with labels and a cap of its own."""
        url = self.rng.choice(self.workers).url
        if self.known[url].registered is not False:
            return
        # While the fleet sleeps the new one is put to sleep too.
        known = Known(None, {"rack": str(self.rng.randrange(9))}, self.rng.randrange(1, 9), asleep=None)
        self.known[url] = known
        await self.client.post(f"{url}/resume_memory_occupation")  # it may have slept when it was removed
        body = {"url": url, "labels": known.labels, "max_concurrency": known.max_concurrency}
        answer = await self.trainer.call("POST", "/workers", body)
        if answer.status:
            assert answer.status == 200, answer
            known.registered = True

    async def change(self) -> None:
        """Give a worker another label."""
        known, url = self._one()
        if known is None:
            return
        labels, known.labels = {"rack": str(self.rng.randrange(9))}, None
        answer = await self.trainer.call("PUT", f"/workers/{url}", {"labels": labels})
        if answer.status == 404 and url in self.removed_now:
            return
        if answer.status:
            assert answer.status == 200, answer
            known.labels = labels

    async def hold_or_open(self) -> None:
        """Take a worker out of the fleet by hand, or back in."""
        known, url = self._one()
        if known is None or known.asleep is not False:
            return
        wanted = not known.held
        known.held = None
        answer = await self.trainer.call("PUT", f"/workers/{url}", {"state": "drained" if wanted else "active"})
        known.held = wanted if answer.status == 200 else None

    async def remove(self) -> None:
        """Remove a worker now; its videos are gone with it."""
        known, url = self._one()
        if known is None:
            return
        known.registered = None
        self.removed_now.add(url)
        mine = [video for video in self.jobs.values() if video.url == url and not video.gone]
        for video in mine:
            video.gone = None
        answer = await self.trainer.call("DELETE", f"/workers/{url}?force=true")
        if answer.status == 0:
            return
        assert answer.status == 200, answer
        known.registered = False
        for video in mine:
            video.gone = True

    async def refit(self) -> None:
        """Load a checkpoint, or a LoRA onto the last one."""
        await self.trainer.refit(self.rng.choice(["disk refit", "disk refit", "set lora"]), "drain", self.workers)

    async def sleep(self) -> None:
        await self._occupy("release", asleep=True)

    async def wake(self) -> None:
        await self._occupy("resume", asleep=False)

    async def _occupy(self, verb: str, *, asleep: bool) -> None:
        for known in self.known.values():
            known.asleep = known.held = None  # waking ends a hold
        answer = await self.trainer.call("POST", f"/{verb}_memory_occupation")
        for row in answer.body["results"] if answer.status == 200 else ():
            if is_success(row):
                self.known[row["worker_url"]].asleep = asleep

    async def make_video(self) -> None:
        body = {"prompt": "a boat", "size": "64x64", "num_frames": 5, "num_inference_steps": 4, "seed": 1}
        sent = self.client.post(f"{self.router.url}/v1/videos", json=body)
        reply = await self._or_gone(sent)
        if reply.status_code == 200:
            url = reply.headers["x-sglang-router-worker"]
            self.jobs[reply.json()["id"]] = Video(url, None if url in self.removed_now else False)

    async def generate(self) -> None:
        body = {"prompt": "a boat", "width": 64, "height": 64, "num_inference_steps": 4, "num_frames": 5, "seed": 1}
        sent_s = self.router.now_s()
        reply = await self._or_gone(self.client.post(f"{self.router.url}/rollout/generate", json=body))
        if reply.status_code == 200:
            version, weights = reply.headers["x-sglang-router-weight-version"], reply.headers["x-sim-weights"]
            sample = Sample(sent_s, self.router.now_s(), version, weights, reply.headers["x-sim-worker"])
            self.trainer.oracle.samples.append(sample)

    async def _or_gone(self, call: Awaitable[httpx2.Response]) -> httpx2.Response:
        sent_s = self.router.now_s()
        try:
            return await call
        except httpx2.TransportError as error:
            if self.router.was_down(sent_s):
                raise RouterGone from error
            raise AssertionError(f"the router is up and breaks off: {error!r}") from error

    def _one(self) -> tuple[Known | None, str]:
        """Choose a worker that is registered for certain."""
        url = self.rng.choice(self.workers).url
        return (self.known[url] if self.known[url].registered else None), url

    async def do(self, name: str) -> None:
        """Do one of the above; the router may go away meanwhile."""
        try:
            await getattr(self, name)()
        except RouterGone:
            self.done.append(f"{name} (no answer)")
        else:
            self.done.append(name)

    # what must be there afterwards

    async def check(self, *, settled: bool) -> None:
        """Compare what the router says with what it has answered for; where it had not, take what it says.

        Args:
            settled: nothing changes any more.
        """
        shown = {worker["url"]: worker for worker in (await self._get("/workers"))["workers"]}
        for url, known in self.known.items():
            if known.registered is None:
                known.registered = url in shown
            assert (url in shown) == known.registered, f"{url}: {known}"
            if known.registered:
                self._check_worker(known, shown[url], settled=settled)
            else:
                self.known[url] = Known()
        await self.check_weights()

    def _check_worker(self, known: Known, shown: dict[str, Any], *, settled: bool) -> None:
        known.labels = shown["labels"] if known.labels is None else known.labels
        known.max_concurrency = known.max_concurrency or shown["max_concurrency"]
        assert (shown["labels"], shown["max_concurrency"]) == (known.labels, known.max_concurrency)
        # Those that sleep are told so once more, in case they were started anew meanwhile.
        asleep = shown["is_sleeping"] or shown["status"] == "releasing"
        if known.asleep is not None:
            assert asleep == known.asleep, shown
        if known.held and not asleep:
            assert shown["status"] == "draining", shown
        if settled:
            known.asleep = asleep

    async def check_weights(self) -> None:
        """Compare each group's target with the versions that may be it."""
        groups = (await self._get("/weights"))["groups"]
        offers = self.trainer.oracle.offers
        wanted = {offer.version for offer in offers if offer.until_s > self.router.now_s()}
        for group in groups.values():
            assert (group["target"] or "0") in wanted, (group["target"], wanted)

    async def check_jobs(self) -> None:
        """Ask for every video: its owner answers, or is named as gone."""
        for job_id, video in self.jobs.items():
            reply = await self.client.get(f"{self.router.url}/v1/videos/{job_id}")
            if video.gone is None:
                video.gone = reply.status_code == 410
            if video.gone:
                assert (reply.status_code, video.url in reply.text) == (410, True), reply.text
            elif self.known[video.url].asleep:
                assert reply.status_code == 503, reply.text
            else:
                assert (reply.status_code, reply.json().get("id")) == (200, job_id), reply.text
                assert reply.headers["x-sglang-router-worker"] == video.url

    async def settled(self) -> None:
        """Wait until whoever should serve does, on the fleet's weights."""

        async def out() -> list[Any]:
            workers = (await self._get("/workers"))["workers"]
            names = ("url", "status", "weight_version", "reason")
            still = {"active", "sleeping", "draining"}
            return [[worker[name] for name in sorted(names)] for worker in workers if worker["status"] not in still]

        await self._eventually(out, lambda found: not found)

    async def _get(self, path: str) -> Any:
        reply = await self.client.get(self.router.url + path)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def _eventually(self, read: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> None:
        deadline_s = self.router.now_s() + PATIENCE_S
        while not wanted(value := await read()):
            assert self.router.now_s() < deadline_s, f"still {value} after {PATIENCE_S:g} s"
            await asyncio.sleep(0.02)


DEEDS = {
    "register": 3,
    "remove": 1,
    "change": 1,
    "hold_or_open": 1,
    "refit": 4,
    "sleep": 1,
    "wake": 2,
    "make_video": 5,
    "generate": 3,
}


@asynccontextmanager
async def world(nursery: Nursery, seed: int) -> AsyncIterator[World]:
    """Start four workers and a router that knows none of them."""
    rng = random.Random(f"restarts {seed}")
    folder = nursery.new_folder()
    workers = [ForkedSim(nursery, f"w{number}", *SIM_FLAGS) for number in range(4)]
    router = ForkedRouter(nursery, *ROUTER_FLAGS, "--state", str(folder / "state.db"))
    limits = httpx2.Limits(max_keepalive_connections=0)
    try:
        await asyncio.gather(*(worker.start() for worker in workers))
        await router.start()
        async with httpx2.AsyncClient(timeout=PATIENCE_S, limits=limits, trust_env=False) as client:
            checkpoints = write_checkpoints(folder, "wan")
            trainer = Trainer(router, client, checkpoints, rng, SimSettings(model="wan"))
            yield World(router, client, workers, trainer, rng)
    finally:
        for process in (*workers, router):
            process.kill()


async def play_round(world: World) -> None:
    """Do some things at once, kill the router in the middle of them, and look at what its next life knows."""
    rng = world.rng
    names = set(rng.choices(list(DEEDS), list(DEEDS.values()), k=3))
    # Which of two at once comes last is nobody's promise.
    names -= {"wake"} if "sleep" in names else set()
    names -= {"hold_or_open"} if "refit" in names else set()
    world.removed_now.clear()
    deeds = [asyncio.create_task(world.do(name)) for name in sorted(names)]
    try:
        await asyncio.wait(deeds, timeout=rng.uniform(0.0, 0.25))
        await world.router.kill_and_restart(0.0)
        await asyncio.gather(*deeds)
    finally:
        for deed in deeds:
            deed.cancel()
    await world.check(settled=False)
    await world.settled()
    await world.check(settled=True)
    await world.check_jobs()
    if rng.random() < 0.5:
        await world.do("wake")
    await world.do("generate")
    await world.do("make_video")


@pytest.mark.parametrize("seed", range(LIVES))
def test_a_killed_router_forgets_nothing_that_it_has_answered_for(nursery: Nursery, seed: int) -> None:
    # On asyncio's own loop: under uvloop anyio trips over connections whose peer dies as they are made.
    asyncio.run(live_through(nursery, seed))


async def live_through(nursery: Nursery, seed: int) -> None:
    """Play all rounds of one fleet's life."""
    async with world(nursery, seed) as w:
        while not all(known.registered for known in w.known.values()):
            await w.register()
        await w.settled()
        for number in range(ROUNDS):
            try:
                await play_round(w)
            except AssertionError as failure:
                failure.add_note(f"round {number}, after {w.done[-12:]}\n{w.router.output()[-20000:]}")
                raise
        assert w.trainer.oracle.violations() == []
        assert "Traceback" not in w.router.output()
        assert len(w.jobs) >= ROUNDS // 3, w.done
