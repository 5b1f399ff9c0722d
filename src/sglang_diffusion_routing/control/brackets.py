"""Take the requests of refits that come in several: begin, part, commit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sglang_diffusion_routing.control.bracket import Bracket
from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.plan import Choose, Refit, groups_of
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import NoOpenRefit
from sglang_diffusion_routing.schemas import FanOutReply


@dataclass(frozen=True, slots=True)
class _Open:
    """A refit in parts, and the task that ends with it."""

    bracket: Bracket
    carrying: asyncio.Task[FanOutReply]


class Brackets:
    """Refits in parts that are under way, at most one in each weight group.

    Args:
        part_limit_s: how long nothing may come between two requests of one refit.
    """

    def __init__(self, refitter: Refitter, *, part_limit_s: float) -> None:
        self._refitter = refitter
        self._part_limit_s = part_limit_s
        self._open: dict[str, _Open] = {}

    async def begin(self, choose: Choose, refit: Refit) -> FanOutReply:
        """Fence and drain the chosen workers, and send them the first part if there is one.

        Closes the body. The refit goes on when the caller is cancelled, and ends for want of parts.

        Raises:
            NoEligibleWorker: there is none; nothing was changed.
            TooManyRefits: too many wait for their turn.
        """
        with refit.outgoing.body:
            record = self._refitter.enter(choose, refit)
            bracket = Bracket(record, self._refitter.updates, self._part_limit_s)
            carrying = self._refitter.begin(record, choose, refit, bracket)
            self._open[bracket.refit_id] = _Open(bracket, carrying)
            carrying.add_done_callback(lambda _: self._over(bracket))
            await bracket.opened.wait()
            if carrying.done():
                return carrying.result()
            if not refit.outgoing.body.size_bytes or not bracket.takes_parts:
                return bracket.begun()
            with bracket.request():
                return bracket.begun(await bracket.part(None, refit.outgoing))

    def find(self, workers: Sequence[Worker]) -> Bracket:
        """Give the refit in parts that is under way in the groups of these workers.

        Raises:
            NoOpenRefit: there is none, or there are several.
        """
        groups = groups_of(workers)
        begun = [one.bracket for one in self._open.values() if groups & one.bracket.groups]
        found = [bracket for bracket in begun if bracket.opened.is_set()]
        if len(found) == 1:
            return found[0]
        if begun and not found:
            # It says itself what it still waits for.
            return begun[0]
        if found:
            names = ", ".join(bracket.refit_id for bracket in found)
            raise NoOpenRefit(f"several refits wait for parts ({names}): name the workers of one with ?selector=")
        last = self._refitter.log.last_ended(groups)
        why = f"; {last.refit_id} has {last.status}: {last.reason}" if last is not None and last.reason else ""
        raise NoOpenRefit(f"no refit has begun here with ?refit=begin{why}")

    async def commit(self, bracket: Bracket, only: Collection[WorkerId] | None, outgoing: Outgoing) -> FanOutReply:
        """Send the last part, if there is one, and open the fleet with what is complete.

        The body is the caller's. Call it within `bracket.request`.

        Args:
            only: the workers that the last part is for; None for all.

        Raises:
            NoOpenRefit: none of the workers takes parts, or somebody else has committed.
        """
        one = self._open.get(bracket.refit_id)
        if one is None:
            raise NoOpenRefit(f"{bracket.refit_id} is over: no worker was left")
        if outgoing.body.size_bytes:
            await bracket.part(only, outgoing)
        # The last worker may have dropped out with this part, and then there is nothing left to decide.
        if not one.carrying.done():
            await bracket.commit()
        return await asyncio.shield(one.carrying)

    def _over(self, bracket: Bracket) -> None:
        del self._open[bracket.refit_id]
        bracket.close()
