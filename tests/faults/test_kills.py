"""One of four workers is killed at random a hundred times under load: clients notice nothing but time."""

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgpack
import pytest

from support.forked import ForkedRouter, ForkedSim
from support.nursery import Nursery

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WORKERS, CLIENTS, KILLS = 4, 12, 100
CAP = 2
GENERATION_S = 0.05
DOWN_S = 0.15
"""From a kill to the start of the next process: long enough that no connection meant for one is taken by the other."""
PATIENCE_S = 30.0
CUT = (0, "the reply broke off")
SIM_FLAGS = ("--overhead-seconds", str(GENERATION_S), "--seconds-per-mpx-step", "0")
ROUTER_FLAGS = ("--health-check-interval", "0.2", "--max-concurrency-per-worker", str(CAP))


@dataclass
class Told:
    """What the workers wrote down.

    arrived: the processes that got a request, by its id, in that order; answering: those that began to answer it;
    answered: those that answered it whole.
    """

    arrived: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    answering: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, path: Path) -> "Told":
        told = cls()
        for line in path.read_text().splitlines():
            what, pid, request_id = line.split()
            getattr(told, what)[request_id].append(int(pid))
        return told

    def lost(self, pid: int) -> set[str]:
        """Give the requests that a process had when it was killed."""
        return {
            request_id
            for request_id, pids in self.arrived.items()
            if pid in pids and pid not in self.answered.get(request_id, ())
        }


@dataclass
class World:
    """The fleet, its router, and what clients have seen: by request id, each reply's status, and seed or error.

    asked: ids of the requests that wait for their replies.
    """

    router: ForkedRouter
    workers: list[ForkedSim]
    client: httpx2.AsyncClient
    log: Path
    replies: dict[str, list[tuple[int, int | str]]] = field(default_factory=lambda: defaultdict(list))
    asked: set[str] = field(default_factory=set)
    replied: asyncio.Condition = field(default_factory=asyncio.Condition)
    killed: list[int] = field(default_factory=list)

    async def ask_until(self, enough: asyncio.Event, number: int) -> None:
        """Be a client with one request after the other, each with an id and a seed of its own."""
        for count in itertools.count():
            if enough.is_set():
                return
            seed = number * 1_000_000 + count
            body = {"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 2, "seed": seed}
            request_id = str(seed)
            self.asked.add(request_id)
            seen = await self._ask(body, request_id)
            async with self.replied:
                self.replies[request_id].append(seen)
                self.asked.discard(request_id)
                self.replied.notify_all()

    async def _ask(self, body: dict[str, object], request_id: str) -> tuple[int, int | str]:
        try:
            reply = await self.client.post("/rollout/generate", json=body, headers={"x-request-id": request_id})
        except (httpx2.ReadError, httpx2.RemoteProtocolError):
            return CUT
        made = msgpack.unpackb(reply.content)[0]["seed"] if reply.status_code == 200 else reply.text
        return reply.status_code, made

    async def fully_at_work(self) -> list[ForkedSim]:
        """Wait until two workers or more have all the work that they may, and give them."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                rows = (await self.client.get("/workers")).json()["workers"]
                urls = {row["url"] for row in rows if row["status"] == "active" and row["active_requests"] == CAP}
                if len(urls) > 1:
                    return [worker for worker in self.workers if worker.url in urls]
                await asyncio.sleep(0.01)

    async def until_answered(self, asked: frozenset[str]) -> None:
        """Wait for the replies to these requests."""
        async with asyncio.timeout(PATIENCE_S), self.replied:
            await self.replied.wait_for(lambda: asked.isdisjoint(self.asked))

    async def start_again(self, victim: ForkedSim) -> None:
        """Bring a dead worker back, without the second or more until the router would ask by itself."""
        await asyncio.sleep(DOWN_S)
        await victim.start()
        (await self.client.put(f"/workers/{victim.url}", json={"is_dead": False})).raise_for_status()

    async def kill_many(self, rng: random.Random) -> None:
        """Kill workers at random points of their work while clients ask, and let what was asked for end."""
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(self.ask_until(enough, number))
            for _ in range(KILLS):
                victim = rng.choice(await self.fully_at_work())
                await asyncio.sleep(rng.uniform(0.0, GENERATION_S))
                self.killed.append(victim.pid)
                victim.kill()
                tasks.create_task(self.start_again(victim))
                # Were the next one killed before, a request might lose two workers, and be blamed for it.
                await self.until_answered(frozenset(self.asked))
            enough.set()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@asynccontextmanager
async def world(nursery: Nursery) -> AsyncIterator[World]:
    """Start four workers and a router that has seen them."""
    log = nursery.new_folder() / "requests"
    workers = [
        ForkedSim(nursery, f"w{number}", *SIM_FLAGS, "--request-log", str(log), "--weights-seed", "1")
        for number in range(WORKERS)
    ]
    for worker in workers:
        await worker.start()
    router = ForkedRouter(nursery, *ROUTER_FLAGS, "--worker-urls", *(worker.url for worker in workers))
    await router.start()
    limits = httpx2.Limits(max_connections=None)
    try:
        async with httpx2.AsyncClient(base_url=router.url, timeout=PATIENCE_S, limits=limits) as client:
            yield World(router, workers, client, log)
    finally:
        router.kill()
        for worker in workers:
            worker.kill()


def test_clients_notice_nothing_of_a_hundred_kills(nursery: Nursery) -> None:
    asyncio.run(live_through(nursery, random.Random(4)))


async def live_through(nursery: Nursery, rng: random.Random) -> None:
    async with world(nursery) as w:
        await w.kill_many(rng)
        told, killed = Told.read(w.log), set(w.killed)
        metrics = (await w.client.get("/metrics")).text
    assert len(killed) == KILLS
    cut = {i for i, replies in w.replies.items() if replies == [CUT]}
    assert {i: replies for i, replies in w.replies.items() if replies != [(200, int(i))] and i not in cut} == {}
    # Between the head and the body of a reply is a moment in which nobody else can answer any more.
    assert {i: told.arrived[i] for i in cut if told.answering[i][-1:] != told.arrived[i][-1:]} == {}
    assert len(cut) <= KILLS // 20
    assert told.arrived.keys() == w.replies.keys()
    # Whoever was sent again had lost a worker that had not answered; nobody was answered by two.
    assert {i: pids for i, pids in told.arrived.items() if not killed.issuperset(pids[:-1])} == {}
    assert {i: pids for i, pids in told.answered.items() if pids != told.arrived[i][-1:]} == {}
    # A worker does one piece of work at a time: of what it had, one was begun, and the rest has lost nothing.
    lost = Counter(len(told.lost(pid)) for pid in killed)
    assert max(lost) <= CAP, lost
    assert sum(number * kills for number, kills in lost.items()) > KILLS, lost
    assert "\nsgld_router_retries_over_budget_total 0.0\n" in metrics
    assert "Traceback" not in w.router.output()
