"""Turns, bounds and bodies of transactions; what they do to workers is tested over HTTP in tests/api/test_refits.py."""

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
from support.raw_worker import read_request, reply, serving
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
