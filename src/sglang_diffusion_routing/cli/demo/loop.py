"""The reinforcement-learning loop of the demo, against a running fleet."""

import asyncio
import time
from typing import Any

import httpx2

from sglang_diffusion_routing.cli.demo import checks, trainer
from sglang_diffusion_routing.cli.demo.checks import Expected, Verdict
from sglang_diffusion_routing.cli.demo.options import Options
from sglang_diffusion_routing.cli.demo.processes import Fleet, name_of
from sglang_diffusion_routing.cli.demo.report import Report, Timed, write_samples
from sglang_diffusion_routing.cli.demo.rollout import request, rollout
from sglang_diffusion_routing.cli.demo.sheet import draw
from sglang_diffusion_routing.client import AsyncClient, Refused, Retry

CONNECT_S = 10.0
SMALL_REQUESTS, SMALL_AT_ONCE = 2_000, 8
BASE_VERSION = "0"
"""What the router calls the weights that the workers' processes started with."""
NEXT_VERSION = "step-1"
CHECKPOINTS = "demo-checkpoints"
"""Folder of both in `Options.out`; the name is not one that a trainer would have there."""


class CallFailed(RuntimeError):
    """A control call did not do what it should."""


class Loop:
    """One run: two rollouts around a sleep, a training step and a refit."""

    def __init__(self, client: httpx2.AsyncClient, fleet: Fleet, options: Options, report: Report) -> None:
        self._client = client
        # Nothing is tried again: what fails is to be seen.
        self._router = AsyncClient(http=client, retry=Retry(attempts=1))
        self._fleet = fleet
        self._options = options
        self._report = report
        self._verdict = Verdict()
        self._requests = 0
        self._received_bytes = 0
        self._names = {sim.url: name_of(index) for index, sim in enumerate(fleet.workers)}
        client.event_hooks["response"].append(self._count)

    async def run(self, base_checksum: str) -> Verdict:
        """Run the loop, show it, write its files, and give what held.

        Raises:
            CallFailed, ClientError, RolloutFailed: the loop cannot go on.
        """
        started = self._fleet.router.usage()
        first = await self._rollout(1, BASE_VERSION, base_checksum)
        await self._sleep()
        checksum = self._train(first)
        await self._wake()
        await self._refit(checksum)
        second = await self._rollout(2, NEXT_VERSION, checksum)
        moved = self._fleet.router.usage()
        requests, megabytes = self._requests, self._received_bytes / 1e6
        await self._small_requests()
        small = self._fleet.router.usage()
        await self._settled()
        self._report.step("reward", f"{first.reward:+.3f} before, {second.reward:+.3f} after one training step")
        for number, timed in enumerate((first, second), 1):
            self._report.places(self._names, number, timed)
        self._report.workers(self._names, self._fleet.speeds, (first, second))
        self._report.cost(started, moved, requests, megabytes)
        self._report.small_cost(moved, small, SMALL_REQUESTS)
        draw(first.groups, second.groups, self._options.out / "contact-sheet.png")
        write_samples(self._options.out / "samples.csv", self._names, (first, second))
        self._report.verdict(self._verdict)
        return self._verdict

    async def _count(self, response: httpx2.Response) -> None:
        self._requests += 1
        self._received_bytes += int(response.headers.get("content-length", 0))

    async def _rollout(self, number: int, version: str, checksum: str) -> Timed:
        options = self._options
        label = f"rollout {number}"
        total = len(options.prompts) * options.samples
        began_s = time.monotonic()
        with self._report.progress(label, total, options.samples) as tick:
            groups = await rollout(self._router, options.prompts, options.samples, options.seed, tick)
        timed = Timed(groups, time.monotonic() - began_s)
        self._report.step(
            label, f"{timed.samples} samples in {timed.seconds:.1f} s, {timed.samples / timed.seconds:.1f} a second"
        )
        expected = self._expected(version, checksum)
        claim = self._verdict.claim
        claim(f"rollout {number} gave every prompt its samples", checks.missing(groups, expected))
        claim(
            f"every sample of rollout {number} ran on weights {version!r} ({checksum[:12]})",
            checks.wrong_weights(groups, expected),
        )
        claim(f"rollout {number} used every worker", checks.idle_workers(groups, expected))
        return timed

    def _expected(self, version: str, checksum: str) -> Expected:
        return Expected(self._options.prompts, self._options.samples, version, checksum, workers=frozenset(self._names))

    async def _sleep(self) -> None:
        self._reached_all("sleep", await self._router.sleep())
        began_s = time.monotonic()
        status = 200
        try:
            await self._router.rollout("A question at night", seed=0, **request(1))
        except Refused as refused:
            status = refused.status
        took_ms = (time.monotonic() - began_s) * 1e3
        self._report.step("sleep", f"all asleep; a rollout now gets {status} in {took_ms:.0f} ms")
        self._verdict.claim(
            "a rollout is refused while all workers sleep", [] if status == 503 else [f"it got {status}"]
        )

    def _train(self, first: Timed) -> str:
        groups = [([s.reward for s in group], [s.latent for s in group]) for group in first.groups]
        folder = self._options.out / CHECKPOINTS
        checksum = trainer.train(folder / NEXT_VERSION, folder / BASE_VERSION, trainer.gradient(groups))
        self._report.step("train", f"one policy-gradient step; transformer {checksum[:12]} is in {NEXT_VERSION}")
        return checksum

    async def _wake(self) -> None:
        began_s = time.monotonic()
        self._reached_all("wake", await self._router.wake())
        self._report.step("wake", f"all awake in {time.monotonic() - began_s:.2f} s")

    async def _refit(self, checksum: str) -> None:
        path = str(self._options.out / CHECKPOINTS / NEXT_VERSION)
        began_s = time.monotonic()
        reply = await self._router.refit(path, weight_version=NEXT_VERSION)
        self._reached_all("refit", reply)
        self._report.step("refit", f"all on {reply.get('weight_version')} in {time.monotonic() - began_s:.2f} s")
        told = await self._router.checksums()
        self._reached_all("checksums", told)
        self._verdict.claim(
            "every worker holds the new checkpoint, bit for bit",
            checks.unequal_checksums(told["results"], self._expected(NEXT_VERSION, checksum)),
        )

    def _reached_all(self, what: str, reply: dict[str, Any]) -> None:
        """See to it that a call has left no worker out."""
        reached = len(reply["results"])
        if reached != len(self._names):
            raise CallFailed(f"{what} reached {reached} of {len(self._names)} workers")

    async def _small_requests(self) -> None:
        """Send many requests with next to nothing in them, a few at a time, to see what each costs."""

        async def send(count: int) -> None:
            for _ in range(count):
                (await self._client.get("/model_info")).raise_for_status()

        await asyncio.gather(*(send(SMALL_REQUESTS // SMALL_AT_ONCE) for _ in range(SMALL_AT_ONCE)))

    async def _settled(self) -> None:
        """Claim that the router holds no lease when nothing runs."""
        workers = await self._router.workers()
        busy = [f"{worker['url']} has {worker['active_requests']}" for worker in workers if worker["active_requests"]]
        self._verdict.claim("no request is left on any worker", busy)
