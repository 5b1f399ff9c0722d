"""Turns, bounds, bodies and names of refits; what they do to workers is tested in test_transaction.py."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.plan import Refit
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.control.turns import WAITING_MAX
from sglang_diffusion_routing.control.worker_api import Ended
from sglang_diffusion_routing.core.refit import StepKind
from sglang_diffusion_routing.errors import NoEligibleWorker, TooManyRefits
from support.engines import settle
from support.raw_worker import read_request, reply, serving
from support.refits import REFUSED, refit_world, statuses
from support.running import eventually
from support.runtime import runtime


async def refit(version: str | None = None, content: bytes = b"{}") -> Refit:
    async def stream() -> AsyncIterator[bytes]:
        yield content

    spool = Spool(in_memory_bytes=0)
    await spool.fill(stream())
    outgoing = Outgoing("POST", "/update_weights_from_disk", spool)
    return Refit(StepKind.DISK, outgoing, version, drain_limit_s=5.0, content=content)


async def test_one_transaction_at_a_time_and_the_others_in_order() -> None:
    under_way, most, order = 0, 0, list[bytes]()

    async def load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        head, body = await read_request(reader)
        if b"update_weights" in head:
            under_way += 1
            most = max(most, under_way)
            order.append(body)
            await asyncio.sleep(0.01)
            under_way -= 1
        writer.write(reply(200, b'{"success":true,"transformer":"x"}'))

    async with serving(load) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        run.connect()
        plans = [await refit(str(n), b"%d" % n) for n in range(5)]
        replies = await asyncio.gather(*(run.refitter.run(lambda: [worker], plan) for plan in plans))
        assert [answer.weight_version for answer in replies] == ["0", "1", "2", "3", "4"]
        assert (most, order) == (1, [b"0", b"1", b"2", b"3", b"4"])
        assert run.refitter.outcomes == {"succeeded": 5, "failed": 0}


async def test_too_many_that_wait_are_refused_and_every_body_is_closed() -> None:
    async with runtime() as run:
        worker = run.fleet.join("http://127.0.0.1:1")
        plans = [await refit() for _ in range(1 + WAITING_MAX + 2)]
        asked = [asyncio.ensure_future(run.refitter.run(lambda: [worker], plan)) for plan in plans]

        async def refused() -> int:
            return sum(task.done() and isinstance(task.exception(), TooManyRefits) for task in asked)

        await eventually(refused, lambda count: count == 2)
        await run.refitter.aclose()
        await asyncio.gather(*asked, return_exceptions=True)
        assert [plan.outgoing.body._file for plan in plans] == [None] * len(plans)


async def test_without_an_eligible_worker_nothing_happens_and_the_body_is_closed() -> None:
    async with runtime() as run:
        plan = await refit()
        with pytest.raises(NoEligibleWorker):
            await run.refitter.run(list, plan)
        assert plan.outgoing.body._file is None
        assert run.refitter.outcomes == {"succeeded": 0, "failed": 0}


async def test_an_update_that_comes_after_its_refit_is_over_changes_nothing() -> None:
    async with runtime() as run:
        worker = run.fleet.join("http://127.0.0.1:1")
        update = await run.refitter.update(worker, "refit-1")
        assert (update.answer.ended, update.unchanged) == (Ended.REFUSED, True)


async def test_two_weight_groups_do_not_wait_for_each_other() -> None:
    async with refit_world() as world:
        (a,) = world.join("a", group="left")
        (b,) = world.join("b", group="right")
        world.loads.hold("a", "b")
        left = world.run("l", choose=lambda: [a])
        right = world.run("r", choose=lambda: [b])
        await world.until_called("a", "b")
        world.loads.let_go("b")
        assert ((await right).weight_version, left.done()) == ("r", False)
        world.loads.let_go("a")
        assert (await left).weight_version == "l"


async def test_two_refits_that_share_a_group_do_wait() -> None:
    async with refit_world() as world:
        (a,) = world.join("a", group="left")
        (b,) = world.join("b", group="right")
        world.loads.hold("a", "b")
        first, other = world.run("1", choose=lambda: [a]), world.run("2", choose=lambda: [b])
        both, again = world.run("3"), world.run("4", choose=lambda: [a])
        await world.until_called("a", "b")
        assert [view.status for view in world.refitter.log.newest(4)] == ["waiting", "waiting", "open", "open"]
        world.loads.let_go("a")
        await first
        await settle()
        assert world.loads.hosts == ["a", "b"]
        world.loads.let_go("b")
        assert [(await task).weight_version for task in (other, both, again)] == ["2", "3", "4"]
        assert (sorted(world.loads.hosts[2:4]), world.loads.hosts[4:]) == (["a", "b"], ["a"])


async def test_whoever_joins_while_a_refit_waits_for_its_turn_is_one_of_all() -> None:
    async with refit_world("a") as world:
        world.loads.hold("a")
        first = world.run("1")
        await world.until_called("a")
        second = world.run("2")
        await settle()
        world.join("late")
        world.loads.let_go("a")
        assert (statuses(await first), statuses(await second)) == ({"a": 200}, {"a": 200, "late": 200})


async def test_each_group_counts_where_nobody_names_a_version() -> None:
    async with refit_world() as world:
        (a,) = world.join("a", group="left")
        (b,) = world.join("b", group="right")
        given = [
            (await world.run(version, choose=lambda worker=worker: [worker])).weight_version  # type: ignore[misc]
            for version, worker in ((None, a), ("3", b), (None, a), (None, b), (None, a))
        ]
        assert given == ["1", "3", "2", "4", "5"]


async def test_a_refit_is_on_the_disk_before_it_begins_and_before_it_is_answered() -> None:
    async with refit_world("a") as world:
        world.loads.hold("a")
        refit = world.run("v1")
        await world.until_called("a")
        name = world.shows().id
        assert world.shelf.flushed == [{name: True}]
        saved = world.shelf.kept[name]
        assert saved.step is not None
        assert (saved.version, saved.groups, saved.step.body) == ("v1", frozenset({"m"}), b'{"model_path":"x"}')
        world.loads.let_go("a")
        assert (await refit).refit == name
        assert world.shelf.flushed[-1] == {name: False}


async def test_every_refit_of_every_run_has_a_name_of_its_own() -> None:
    async with refit_world("a") as one, refit_world("a") as other:
        names = [(await world.run()).refit for world in (one, one, other)]
        assert len(set(names)) == 3


async def test_a_refit_goes_on_when_its_client_leaves() -> None:
    async with refit_world("a") as world:
        world.loads.hold("a")
        refit = world.run("v1")
        await world.until_called("a")
        refit.cancel()
        world.loads.let_go("a")
        await world.until(lambda: world.shows().status == "succeeded")
        assert world.weights() == {"a": ("v1", "current")}


async def test_what_became_of_refits_is_counted() -> None:
    async with refit_world("a", "b") as world:
        await world.run()
        world.loads.answers = {"a": [REFUSED]}
        await world.run()
        assert world.refitter.outcomes == {"succeeded": 1, "failed": 1}
        assert {outcome: sum(took.counts) for outcome, took in world.refitter.took.items()} == world.refitter.outcomes
        assert [view.status for view in world.refitter.log.newest(3)] == ["partial", "succeeded"]


async def test_a_refit_that_never_began_pushes_no_other_out_of_the_log() -> None:
    async with refit_world("a") as world:
        done = await world.run()
        with pytest.raises(NoEligibleWorker):
            await world.run(choose=list)
        assert [view.id for view in world.refitter.log.newest(9)] == [done.refit]
        assert world.refitter.outcomes == {"succeeded": 1, "failed": 0}


@pytest.mark.parametrize("kind", [StepKind.DISK, StepKind.TENSOR])
async def test_weights_below_a_lora_are_not_praised(kind: StepKind) -> None:
    async with refit_world("a") as world:
        assert (await world.run("v1", kind=kind)).message is None
        assert (await world.run("v2", kind=StepKind.SET_LORA, content=b'{"lora_path":"x"}')).message is None
        assert "leaves the layers that a LoRA wraps as they were" in ((await world.run("v3", kind=kind)).message or "")
        world.loads.answers = {"a": [REFUSED]}
        assert (await world.run("v4")).message is None
