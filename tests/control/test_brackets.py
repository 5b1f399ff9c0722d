"""Which refit in parts a request belongs to."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.control.worker_api import Answer, Ended
from sglang_diffusion_routing.core.events import SentinelEnded, SentinelLost
from sglang_diffusion_routing.core.refit import StepKind
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import NoEligibleWorker, NoOpenRefit, TooManyRefits
from support.engines import DONE, settle
from support.refits import TENSOR, RefitWorld, refit, refit_world, statuses

pytestmark = pytest.mark.core


def of_group(world: RefitWorld, name: str) -> list[Worker]:
    return [worker for worker in world.everybody() if worker.weight_group == name]


async def test_each_group_has_a_refit_of_its_own() -> None:
    async with refit_world() as world:
        world.join("a", group="left")
        world.join("b", group="right")
        left = await world.begin("left", b"one", choose=lambda: of_group(world, "left"))
        right = await world.begin("right", b"one", choose=lambda: of_group(world, "right"))
        assert (statuses(left), statuses(right)) == ({"a": 200}, {"b": 200})
        with pytest.raises(NoOpenRefit, match="several refits wait for parts"):
            world.brackets.find(world.everybody())
        for name, host in (("left", "a"), ("right", "b")):
            bracket = world.brackets.find(of_group(world, name))
            with bracket.request(), Spool.of(b"") as body:
                reply = await world.brackets.commit(bracket, None, Outgoing("POST", TENSOR, body))
            assert (statuses(reply), reply.weight_version) == ({host: 200}, name)


async def test_a_second_one_waits_for_the_commit_of_the_first_and_does_not_take_its_parts() -> None:
    async with refit_world("a") as world:
        first = await world.begin("v1", b"one")
        second = world.begin("v2", b"other")
        await settle()
        assert (await world.part(b"two")).refit == first.refit
        assert not second.done()
        assert (await world.commit()).weight_version == "v1"
        assert (await second).refit != first.refit
        assert (await world.commit()).weight_version == "v2"
        assert [body for _, _, body in world.loads.sent] == [b"one", b"two", b"other"]


async def test_a_refit_in_one_request_waits_for_the_commit_too() -> None:
    async with refit_world("a") as world:
        await world.begin("v1", b"one")
        whole = world.run("v2")
        await settle()
        assert (world.loads.hosts, whole.done()) == (["a"], False)
        await world.commit()
        assert (await whole).weight_version == "v2"


async def test_a_begin_that_nobody_can_take_part_in_is_refused_and_its_body_closed() -> None:
    async with refit_world() as world:
        wanted = refit("v1", kind=StepKind.TENSOR)
        with pytest.raises(NoEligibleWorker):
            await world.brackets.begin(list, wanted)
        assert not [chunk async for chunk in wanted.outgoing.body.chunks()]
        with pytest.raises(NoOpenRefit):
            await world.commit()


async def test_a_begin_that_finds_the_line_full_is_refused() -> None:
    async with refit_world("a") as world:
        begun = await world.begin("v1")
        waiting = [world.begin(f"v{number}") for number in range(2, 20)]
        await settle()
        refused = [task for task in waiting if task.done()]
        assert [type(task.exception()) for task in refused] == [TooManyRefits] * 2
        assert begun.success
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_refit_goes_on_when_the_one_who_began_it_leaves_and_ends_for_want_of_parts() -> None:
    async with refit_world("a", part_limit_s=0.3) as world:
        world.occupy("a")
        begun = world.begin("v1")
        await world.until(lambda: world.rows() == {"a": "draining"})
        begun.cancel()
        world.finish("a")
        await world.until(lambda: world.rows() == {"a": "updating"})
        await world.until(lambda: world.shows().status == "failed")
        assert world.fleet.pool.is_routable(world.worker("a"))


async def test_what_has_become_of_the_last_one_is_told_to_whoever_comes_too_late() -> None:
    async with refit_world("a", part_limit_s=0.01) as world:
        begun = await world.begin("v1")
        await world.until(lambda: world.shows().ended_at is not None)
        await settle()
        with pytest.raises(NoOpenRefit) as caught:
            await world.part(b"late")
        assert caught.value.message == (
            f"no refit has begun here with ?refit=begin; {begun.refit} has failed: "
            "nothing came for 0.01 s after 0 parts, and no commit"
        )


async def test_a_large_body_comes_from_the_disk() -> None:
    async with refit_world("a", "b") as world:
        content = bytes(range(256)) * 1024
        bracket_reply = await world.begin("v1")
        assert bracket_reply.success
        spool = Spool(in_memory_bytes=1024)

        async def stream() -> AsyncIterator[bytes]:
            for start in range(0, len(content), 4096):
                yield content[start : start + 4096]

        await spool.fill(stream())
        bracket = world.brackets.find(world.everybody())
        with bracket.request(), spool:
            reply = bracket.took(await bracket.part(None, Outgoing("POST", TENSOR, spool)), None)
        assert reply.success
        assert sorted((host, body == content) for host, _, body in world.loads.sent) == [("a", True), ("b", True)]
        assert (await world.commit()).success


async def test_a_last_part_that_nobody_loads_ends_it_and_is_answered_with_what_they_said() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1", b"one")
        refused = Answer(Ended.REFUSED, 400, {"success": False})
        world.loads.answers = {"a": [refused], "b": [DONE, refused]}
        await world.part(b"two")
        await world.until(lambda: world.rows()["a"] == "refused")
        dropped = world.worker("a")
        world.fleet.apply(SentinelEnded(dropped.worker_id, dropped.incarnation))
        committed = asyncio.ensure_future(world.commit(b"three"))
        await world.until(lambda: world.shows().ended_at is not None)
        world.fleet.apply(SentinelLost(dropped.worker_id, dropped.incarnation, connections=0))
        reply = await committed
        assert (statuses(reply), reply.success, reply.weight_version) == ({"a": 400, "b": 400}, False, None)
