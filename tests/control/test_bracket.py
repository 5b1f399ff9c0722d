"""Refits whose weights come in several requests; without a network, so that every order of them can be played."""

import asyncio

import pytest

from sglang_diffusion_routing.control.bracket import REQUESTS_MAX
from sglang_diffusion_routing.core.events import RemovalRequested, SleepRequested, WorkerRestarted
from sglang_diffusion_routing.core.refit import Mode, StepKind
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.errors import NoOpenRefit, TooManyRefits
from sglang_diffusion_routing.schemas import FanOutReply
from support.engines import settle
from support.refits import LOST, REFUSED, TENSOR, RefitWorld, refit_world, statuses

pytestmark = pytest.mark.core

BASE, SUSPECT = Unversioned.BASE, Unversioned.SUSPECT


def serving(world: RefitWorld) -> set[str]:
    return {worker.url.host for worker in world.everybody() if world.fleet.pool.is_routable(worker)}


def current(world: RefitWorld) -> set[str]:
    return {host for host, (_, currency) in world.weights().items() if currency == "current"}


def reasons(reply: FanOutReply) -> dict[str, object]:
    """Give what each row says of what went wrong."""
    bodies = {row.worker_url: row.body for row in reply.results}
    return {url: body["error"] for url, body in bodies.items() if isinstance(body, dict) and "error" in body}


async def test_parts_go_to_everybody_and_the_commit_opens_the_fleet() -> None:
    async with refit_world("a", "b") as world:
        begun = await world.begin("v1")
        assert (statuses(begun), begun.success, begun.refit) == ({"a": 200, "b": 200}, True, world.shows().id)
        assert (world.loads.sent, serving(world), world.rows()) == ([], set(), {"a": "updating", "b": "updating"})
        for content in (b"one", b"two"):
            part = await world.part(content)
            assert (statuses(part), part.success, part.weight_version) == ({"a": 200, "b": 200}, True, None)
            assert (serving(world), world.weights()["a"][0]) == (set(), BASE)
        reply = await world.commit()
        assert (statuses(reply), reply.success, reply.weight_version) == ({"a": 200, "b": 200}, True, "v1")
        assert world.weights() == {"a": ("v1", "current"), "b": ("v1", "current")}
        assert (serving(world), world.shows().parts, world.shows().status) == ({"a", "b"}, 2, "succeeded")
        assert sorted(world.loads.sent) == sorted((host, TENSOR, part) for host in "ab" for part in (b"one", b"two"))


async def test_begin_and_commit_may_bring_a_part_each() -> None:
    async with refit_world("a") as world:
        begun = await world.begin("v1", b"first")
        assert [row.body for row in begun.results] == [{"success": True, "message": "loaded"}]
        reply = await world.commit(b"last")
        assert (reply.success, world.shows().parts) == (True, 2)
        assert [body for _, _, body in world.loads.sent] == [b"first", b"last"]


async def test_begin_is_answered_once_everybody_has_drained() -> None:
    async with refit_world("idle", "busy") as world:
        world.occupy("busy")
        begun = world.begin("v1", b"first")
        await world.until(lambda: world.rows() == {"idle": "updating", "busy": "draining"})
        with pytest.raises(NoOpenRefit, match="still waits for its turn, or for the work of its workers"):
            await world.part(b"early")
        assert (begun.done(), world.loads.sent) == (False, [])
        world.finish("busy")
        assert statuses(await begun) == {"idle": 200, "busy": 200}
        assert (await world.commit()).success


async def test_an_immediate_one_does_not_wait_for_work() -> None:
    async with refit_world("busy") as world:
        world.occupy("busy")
        assert (await world.begin("v1", mode=Mode.IMMEDIATE)).success
        await world.part(b"one")
        assert (await world.commit()).success


async def test_who_does_not_drain_in_time_is_out_and_serves_on_until_there_are_new_weights() -> None:
    async with refit_world("idle", "busy") as world:
        world.occupy("busy")
        begun = world.begin("v1", drain_limit_s=3.0)
        await world.until(lambda: world.rows() == {"idle": "updating", "busy": "draining"})
        world.pass_time(3.0)
        reply = await begun
        assert (statuses(reply), reply.success) == ({"idle": 200, "busy": 504}, False)
        part = await world.part(b"one")
        assert (statuses(part), [row.worker_url for row in part.skipped]) == ({"idle": 200}, ["http://busy:1"])
        assert (await world.commit()).success is False
        assert (world.weights()["idle"], serving(world)) == (("v1", "current"), {"idle"})


async def test_when_nobody_drains_in_time_the_refit_is_over() -> None:
    async with refit_world("busy") as world:
        world.occupy("busy")
        begun = world.begin("v1", b"first", drain_limit_s=3.0)
        await world.until(lambda: world.rows() == {"busy": "draining"})
        world.pass_time(3.0)
        assert statuses(await begun) == {"busy": 504}
        await world.until(lambda: world.shows().status == "failed")
        with pytest.raises(NoOpenRefit):
            await world.part(b"one")
        assert (serving(world), world.loads.sent) == ({"busy"}, [])


async def test_parts_for_some_of_the_workers_add_up() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1")
        for content in (b"one", b"two"):
            for host in ("a", "b"):
                part = await world.part(content + host.encode(), host)
                assert (statuses(part), part.skipped) == ({host: 200}, [])
        assert (await world.commit()).success
        assert world.loads.sent == [
            (host, TENSOR, content + host.encode()) for content in (b"one", b"two") for host in ("a", "b")
        ]


async def test_parts_for_different_workers_go_side_by_side() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1")
        world.loads.hold("a")
        slow = asyncio.ensure_future(world.part(b"one", "a"))
        await world.until_called("a")
        assert (await world.part(b"one", "b")).success
        world.loads.let_go("a")
        assert (await slow).success
        assert (await world.commit()).success


async def test_a_worker_with_fewer_parts_is_suspect_and_one_with_none_is_as_it_was() -> None:
    async with refit_world("all", "some", "none") as world:
        await world.begin("v1")
        await world.part(b"one", "all", "some")
        await world.part(b"two", "all")
        reply = await world.commit()
        assert (statuses(reply), reply.success, reply.weight_version) == (
            {"all": 200, "some": 409, "none": 409},
            False,
            "v1",
        )
        assert reasons(reply) == {"http://some:1": "it has 1 of 2 parts", "http://none:1": "it got no part"}
        assert world.weights() == {"all": ("v1", "current"), "some": (SUSPECT, "suspect"), "none": (BASE, "stale")}
        assert (serving(world), world.shows().status) == ({"all"}, "partial")


async def test_a_commit_without_any_part_calls_it_off() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1")
        reply = await world.commit()
        assert (statuses(reply), reply.success, reply.weight_version) == ({"a": 409, "b": 409}, False, None)
        assert (serving(world), world.weights()["a"]) == ({"a", "b"}, (BASE, "current"))


async def test_a_worker_that_refuses_its_first_part_is_out_and_has_what_it_had() -> None:
    async with refit_world("a", "b") as world:
        world.loads.answers = {"b": [REFUSED]}
        begun = await world.begin("v1", b"one")
        assert (statuses(begun), begun.success) == ({"a": 200, "b": 400}, False)
        part = await world.part(b"two")
        assert (statuses(part), [(row.worker_url, row.reason) for row in part.skipped]) == (
            {"a": 200},
            [("http://b:1", "no such path")],
        )
        assert statuses(await world.commit()) == {"a": 200, "b": 400}
        assert world.weights() == {"a": ("v1", "current"), "b": (BASE, "stale")}


async def test_a_first_part_that_everybody_refuses_costs_nothing() -> None:
    async with refit_world("a", "b") as world:
        world.loads.answers = {"a": [REFUSED], "b": [REFUSED]}
        assert statuses(await world.begin("v1", b"one")) == {"a": 400, "b": 400}
        await world.until(lambda: serving(world) == {"a", "b"})
        assert (world.shows().status, world.weights()["a"]) == ("failed", (BASE, "current"))


async def test_a_worker_that_refuses_a_later_part_is_suspect() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1", b"one")
        world.loads.answers = {"b": [REFUSED]}
        assert statuses(await world.part(b"two")) == {"a": 200, "b": 400}
        assert world.weights()["b"] == (SUSPECT, "suspect")
        assert statuses(await world.commit()) == {"a": 200, "b": 400}
        assert (world.weights()["a"], serving(world)) == (("v1", "current"), {"a"})


async def test_a_part_that_everybody_refuses_is_not_missing_at_the_commit() -> None:
    """All would have the same number of parts, and yet not all parts."""
    async with refit_world("a", "b") as world:
        await world.begin("v1", b"one")
        world.loads.answers = {"a": [REFUSED], "b": [REFUSED]}
        await world.part(b"two")
        reply = await world.commit()
        assert (statuses(reply), reply.success, reply.weight_version) == ({"a": 400, "b": 400}, False, None)
        assert current(world) == set()


async def test_a_worker_that_is_lost_over_a_part_is_out_and_shows_how_many_parts_there_were() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1", b"one")
        await world.part(b"two", "b")
        world.loads.answers = {"b": [LOST]}
        assert statuses(await world.part(b"three", "b")) == {"b": 502}
        reply = await world.commit()
        assert (statuses(reply), reply.weight_version) == ({"a": 409, "b": 502}, None)
        assert reasons(reply)["http://a:1"] == "it has 1 of 2 parts"
        assert serving(world) == set()


@pytest.mark.parametrize("when", ["before a part", "before the commit"])
async def test_a_worker_that_was_restarted_between_two_parts_has_not_got_them_all(when: str) -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1", b"one")
        worker = world.worker("b")
        world.fleet.apply(WorkerRestarted(worker.worker_id, worker.incarnation))
        if when == "before a part":
            assert statuses(await world.part(b"two")) == {"a": 200, "b": 409}
            assert [host for host, _, body in world.loads.sent if body == b"two"] == ["a"]
        reply = await world.commit()
        assert (statuses(reply), reasons(reply)) == (
            {"a": 200, "b": 409},
            {"http://b:1": "its process was replaced between two parts"},
        )
        assert (world.weights()["a"], world.weights()["b"][1] == "current") == (("v1", "current"), False)


async def test_a_worker_that_is_removed_in_between_gets_no_more_parts() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1", b"one")
        world.fleet.apply(RemovalRequested(world.worker("b").worker_id, force=True))
        assert statuses(await world.part(b"two")) == {"a": 200, "b": 409}
        reply = await world.commit()
        assert (statuses(reply)["a"], reply.weight_version) == (200, "v1")


async def test_sleep_waits_for_the_commit() -> None:
    async with refit_world("a") as world:
        await world.begin("v1", b"one")
        world.fleet.apply(SleepRequested(world.worker("a").worker_id))
        assert world.worker("a").state.value == "updating"
        assert (await world.commit()).weight_version == "v1"
        await world.until(lambda: world.worker("a").state.value == "releasing")


async def test_silence_between_two_requests_ends_it_loudly() -> None:
    async with refit_world("some", "none", part_limit_s=0.3) as world:
        await world.begin("v1")
        await world.part(b"one", "some")
        await world.until(lambda: world.shows().ended_at is not None)
        shown = world.shows()
        assert (shown.status, shown.reason) == ("failed", "nothing came for 0.3 s after 1 parts, and no commit")
        assert {row.worker_url: row.reason for row in shown.workers} == dict.fromkeys(
            ("http://some:1", "http://none:1"), shown.reason
        )
        assert (current(world), serving(world)) == ({"none"}, {"none"})
        with pytest.raises(NoOpenRefit, match="nothing came for"):
            await world.commit()


async def test_silence_is_counted_from_the_end_of_a_request_and_not_while_one_is_under_way() -> None:
    async with refit_world("a", part_limit_s=0.3) as world:
        await world.begin("v1")
        world.loads.hold("a")
        part = asyncio.ensure_future(world.part(b"one"))
        await world.until_called("a")
        await asyncio.wait({part}, timeout=0.5)
        world.loads.let_go("a")
        assert (await part).success
        assert (await world.commit()).success


async def test_the_commit_waits_for_the_parts_under_way() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1", b"one")
        world.loads.hold("a")
        part = asyncio.ensure_future(world.part(b"two"))
        await world.until_called("a", "b", "a", "b")
        commit = asyncio.ensure_future(world.commit())
        await settle()
        with pytest.raises(NoOpenRefit, match="is being committed"):
            await world.part(b"three")
        assert not commit.done()
        world.loads.let_go("a")
        assert (await part).success
        assert (await commit).success


async def test_without_a_begin_there_is_nothing_to_add_to() -> None:
    async with refit_world("a") as world:
        with pytest.raises(NoOpenRefit, match="no refit has begun here with"):
            await world.part(b"one")
        with pytest.raises(NoOpenRefit):
            await world.commit()
        await world.run("v1", kind=StepKind.TENSOR)
        with pytest.raises(NoOpenRefit):
            await world.commit()


async def test_a_part_for_nobody_who_takes_parts_is_refused() -> None:
    async with refit_world("a", "b") as world:
        world.loads.answers = {"b": [REFUSED]}
        await world.begin("v1", b"one")
        with pytest.raises(NoOpenRefit, match="has none of these workers, or no more"):
            await world.part(b"two", "b")
        world.join("late")
        part = await world.part(b"two", "a", "late")
        assert [(row.worker_url, row.reason) for row in part.skipped] == [
            ("http://late:1", f"it has no part in {part.refit}")
        ]
        await world.commit()


async def test_too_many_parts_at_once_are_refused() -> None:
    async with refit_world("a") as world:
        await world.begin("v1")
        world.loads.hold("a")
        parts = [asyncio.ensure_future(world.part(b"%d" % number)) for number in range(REQUESTS_MAX)]
        await world.until(lambda: len(world.loads.sent) == REQUESTS_MAX)
        with pytest.raises(TooManyRefits):
            await world.part(b"one more")
        world.loads.let_go("a")
        await asyncio.gather(*parts)
        assert (await world.commit()).success


async def test_a_part_that_the_router_breaks_off_is_no_part() -> None:
    async with refit_world("a", "b") as world:
        await world.begin("v1", b"one")
        world.loads.answers = {"a": [ZeroDivisionError()], "b": [ZeroDivisionError()]}
        with pytest.raises(ExceptionGroup):
            await world.part(b"two")
        await world.until(lambda: world.shows().status == "failed")
        assert current(world) == set()


async def test_two_commits_at_once_are_one() -> None:
    async with refit_world("a") as world:
        await world.begin("v1", b"one")
        replies = await asyncio.gather(world.commit(), world.commit(), return_exceptions=True)
        assert [type(reply) for reply in replies] == [FanOutReply, NoOpenRefit]
