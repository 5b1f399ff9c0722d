import asyncio

import pytest

from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.control.updates import Update, Updates, until_judged
from sglang_diffusion_routing.control.worker_api import Answer
from sglang_diffusion_routing.core.events import SentinelEnded, SentinelLost
from sglang_diffusion_routing.core.weights import Unversioned
from support.engines import settle
from support.refits import DISK, DONE, LOST, REFUSED, Loads, RefitWorld, refit_world

pytestmark = pytest.mark.core


def updates_of(world: RefitWorld) -> tuple[Loads, Updates]:
    baselines = Baselines(world.fleet, world.loads, call_limit_s=5.0)
    return world.loads, Updates(world.loads, baselines, call_limit_s=5.0, max_reply_bytes=4096)


@pytest.mark.parametrize(
    ("answer", "now_has", "unchanged"),
    [
        (DONE, "base", None),
        (LOST, "base", None),
        (REFUSED, "base", True),
        (REFUSED, "other", False),
        (REFUSED, None, None),
    ],
)
async def test_a_refusal_is_held_against_what_the_worker_had(
    answer: Answer, now_has: str | None, unchanged: bool | None
) -> None:
    async with refit_world("a") as world:
        loads, updates = updates_of(world)
        worker = world.worker("a")
        await updates.prepare(worker)
        loads.answers = {"a": [answer]}
        loads.weights["a"] = now_has
        with Spool.of(b"content") as body:
            update = await updates.make(worker, Unversioned.BASE, Outgoing("POST", DISK, body))
        assert (update, loads.sent) == (Update(answer, unchanged), [("a", DISK, b"content")])


async def test_what_a_worker_has_is_unknown_to_whoever_did_not_ask() -> None:
    async with refit_world("a") as world:
        loads, updates = updates_of(world)
        loads.answers = {"a": [REFUSED]}
        with Spool.of(b"content") as body:
            update = await updates.make(world.worker("a"), Unversioned.BASE, Outgoing("POST", DISK, body))
        assert update == Update(REFUSED, None)


async def test_the_end_of_a_silent_connection_is_judged_first() -> None:
    async with refit_world("a") as world:
        worker = world.worker("a")
        await until_judged(worker)
        world.fleet.apply(SentinelEnded(worker.worker_id, worker.incarnation))
        judged = asyncio.ensure_future(until_judged(worker))
        await settle()
        assert not judged.done()
        world.fleet.apply(SentinelLost(worker.worker_id, worker.incarnation, connections=0))
        await asyncio.wait_for(judged, 5.0)


async def test_an_end_that_nobody_judges_holds_nothing_up() -> None:
    async with refit_world("a") as world:
        worker = world.worker("a")
        world.fleet.apply(SentinelEnded(worker.worker_id, worker.incarnation))
        await asyncio.wait_for(until_judged(worker), 5.0)
