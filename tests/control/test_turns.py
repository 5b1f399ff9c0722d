import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sglang_diffusion_routing.control.turns import WAITING_MAX, Turns
from sglang_diffusion_routing.errors import TooManyRefits

pytestmark = pytest.mark.core

Hold = Callable[[str], Awaitable[None]]


class Line:
    """Holders that come in when it is their turn, and stay until they are let go."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.inside: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, *groups: str) -> None:
        """Have somebody line up, and let everything that can happen happen."""
        self._leave[name] = asyncio.Event()
        self._tasks[name] = asyncio.ensure_future(self._hold(name, groups))
        await self.settle()

    async def go(self, name: str) -> None:
        self._leave[name].set()
        await self._tasks[name]
        await self.settle()

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _hold(self, name: str, groups: tuple[str, ...]) -> None:
        async with self.turns.of(groups):
            self.inside.append(name)
            await self._leave[name].wait()
            self.inside.remove(name)


@pytest.fixture
def line() -> Line:
    return Line()


async def test_one_group_is_had_by_one_after_the_other_in_order(line: Line) -> None:
    for name in ("first", "second", "third"):
        await line.come(name, "g")
    assert (line.inside, line.turns.waiting) == (["first"], 2)
    await line.go("first")
    assert line.inside == ["second"]
    await line.go("second")
    assert (line.inside, line.turns.waiting) == (["third"], 0)


async def test_different_groups_do_not_wait_for_each_other(line: Line) -> None:
    await line.come("one", "a")
    await line.come("other", "b")
    assert line.inside == ["one", "other"]


async def test_several_groups_are_had_together_whatever_order_they_are_named_in(line: Line) -> None:
    await line.come("a", "a")
    await line.come("both", "b", "a")
    await line.come("reversed", "a", "b")
    await line.go("a")
    assert line.inside == ["both"]
    await line.go("both")
    assert line.inside == ["reversed"]


async def test_whoever_gives_up_leaves_the_line(line: Line) -> None:
    await line.come("first", "a")
    await line.come("second", "b", "a")
    await line.come("third", "b")
    assert line.inside == ["first", "third"]
    await line.go("third")
    await line.come("fourth", "a")
    await line.give_up("second")
    await line.go("first")
    assert (line.inside, line.turns.waiting) == (["fourth"], 0)


async def test_too_many_that_would_wait_are_refused(line: Line) -> None:
    await line.come("holder", "g")
    for number in range(WAITING_MAX):
        await line.come(f"waiting {number}", "g")
    with pytest.raises(TooManyRefits):
        async with line.turns.of({"g"}):
            pass
    async with line.turns.of({"another"}):
        pass
    await line.go("holder")
    assert line.inside == ["waiting 0"]


async def test_an_error_inside_gives_the_turn_back(line: Line) -> None:
    with pytest.raises(ZeroDivisionError):
        async with line.turns.of({"g"}):
            raise ZeroDivisionError
    await line.come("next", "g")
    assert line.inside == ["next"]


async def test_groups_that_nobody_needs_are_forgotten(line: Line) -> None:
    await line.come("first", "a", "b")
    await line.come("second", "b")
    await line.give_up("second")
    await line.go("first")
    assert line.turns._turns == {}
