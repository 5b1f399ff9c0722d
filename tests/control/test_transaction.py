"""What a refit does to workers, in each mode; without a network, so that every order of events can be played."""

import asyncio

import pytest

from sglang_diffusion_routing.control.worker_api import Answer
from sglang_diffusion_routing.core.events import (
    HoldRequested,
    RemovalRequested,
    SentinelEnded,
    SentinelLost,
    SleepRequested,
    WorkerDied,
    WorkerRestarted,
)
from sglang_diffusion_routing.core.refit import Mode
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.errors import NoEligibleWorker
from support.engines import settle
from support.refits import DONE, LOST, REFUSED, REFUSED_WITH_200, RefitWorld, refit_world, statuses

pytestmark = pytest.mark.core

BASE, SUSPECT = Unversioned.BASE, Unversioned.SUSPECT


def serving(world: RefitWorld) -> set[str]:
    """Who takes work now."""
    return {worker.url.host for worker in world.everybody() if world.fleet.pool.is_routable(worker)}


async def test_every_worker_is_updated_as_soon_as_it_has_drained_and_waits_for_no_other() -> None:
    async with refit_world("idle", "busy") as world:
        world.occupy("busy")
        refit = world.run("v1")
        await world.until(lambda: world.rows() == {"idle": "updated", "busy": "draining"})
        assert (world.loads.hosts, serving(world)) == (["idle"], {"idle"})
        world.finish("busy")
        reply = await refit
        assert (statuses(reply), reply.success, reply.weight_version) == ({"idle": 200, "busy": 200}, True, "v1")
        assert serving(world) == {"idle", "busy"}


async def test_from_the_first_moment_nobody_serves_the_old_weights() -> None:
    async with refit_world("a", "b") as world:
        world.loads.hold("a", "b")
        refit = world.run("v1")
        await world.until_called("a", "b")
        assert serving(world) == set()
        world.loads.let_go("a")
        await world.until(lambda: serving(world) == {"a"})
        world.loads.let_go("b")
        assert (await refit).success


async def test_a_refit_that_everybody_refuses_without_a_change_costs_nothing() -> None:
    async with refit_world("a", "b") as world:
        world.loads.answers = {"a": [REFUSED], "b": [REFUSED_WITH_200]}
        reply = await world.run("v1")
        assert (statuses(reply), reply.success, reply.weight_version) == ({"a": 400, "b": 200}, False, None)
        assert world.weights() == {"a": (BASE, "current"), "b": (BASE, "current")}
        assert serving(world) == {"a", "b"}
        shown = world.shows()
        assert (shown.status, [row.reason for row in shown.workers]) == ("failed", ["no such path", "it does not fit"])


async def test_what_a_refusal_has_changed_is_found_out() -> None:
    async with refit_world("a", "b", "mute") as world:
        world.loads.answers = {"a": [REFUSED], "b": [REFUSED], "mute": [REFUSED]}
        world.loads.weights["mute"] = None
        world.loads.hold("a", "b")
        refit = world.run("v1")
        await world.until_called("a", "b", "mute")
        world.loads.weights["b"] = "spoilt"
        world.loads.let_go("a")
        world.loads.let_go("b")
        await refit
        assert (world.weights()["a"], serving(world)) == ((BASE, "current"), {"a"})


async def test_a_lost_update_takes_one_worker_out_and_the_others_go_on() -> None:
    async with refit_world("a", "b") as world:
        world.loads.answers = {"b": [LOST]}
        reply = await world.run("v1")
        assert (statuses(reply), reply.success, reply.weight_version) == ({"a": 200, "b": 502}, False, "v1")
        assert world.weights() == {"a": ("v1", "current"), "b": (SUSPECT, "suspect")}
        assert (world.shows().status, world.rows(), serving(world)) == ("partial", {"a": "updated", "b": "lost"}, {"a"})


async def test_a_worker_that_does_not_drain_in_time_keeps_what_it_has_and_is_stale() -> None:
    async with refit_world("quick", "slow") as world:
        world.occupy("slow")
        refit = world.run("v1", drain_limit_s=3.0)
        await world.until(lambda: world.rows() == {"quick": "updated", "slow": "draining"})
        world.pass_time(3.0)
        reply = await refit
        assert (statuses(reply), world.rows()["slow"]) == ({"quick": 200, "slow": 504}, "expired")
        assert (world.weights()["slow"], serving(world)) == ((BASE, "stale"), {"quick"})


async def test_whoever_drops_out_does_not_serve_the_old_weights_while_others_still_load_the_new_ones() -> None:
    async with refit_world("loading", "slow", "refusing") as world:
        world.occupy("slow")
        world.loads.hold("loading")
        world.loads.answers = {"refusing": [REFUSED]}
        refit = world.run("v1", drain_limit_s=3.0)
        await world.until(lambda: world.rows() == {"loading": "updating", "slow": "draining", "refusing": "refused"})
        world.pass_time(3.0)
        await world.until(lambda: world.rows()["slow"] == "expired")
        assert (world.worker("slow").state.value, serving(world)) == ("active", set())
        world.loads.let_go("loading")
        await refit
        assert serving(world) == {"loading"}


@pytest.mark.parametrize(("answer", "after"), [(DONE, {"a"}), (REFUSED, {"a", "b"})])
async def test_the_whole_group_is_fenced_also_those_that_the_refit_is_not_for(answer: Answer, after: set[str]) -> None:
    async with refit_world("a", "b") as world:
        world.loads.hold("a")
        world.loads.answers = {"a": [answer]}
        refit = world.run("v1", choose=lambda: [world.worker("a")])
        await world.until_called("a")
        assert serving(world) == set()
        world.loads.let_go("a")
        await refit
        assert serving(world) == after


async def test_when_no_worker_drains_in_time_all_serve_on() -> None:
    async with refit_world("slow") as world:
        world.occupy("slow")
        refit = world.run("v1", drain_limit_s=3.0)
        await world.until(lambda: world.rows() == {"slow": "draining"})
        world.pass_time(3.0)
        assert (statuses(await refit), serving(world)) == ({"slow": 504}, {"slow"})


async def test_what_is_stronger_pushes_the_refit_of_one_worker_aside() -> None:
    async with refit_world("a", "sleeper", "gone") as world:
        world.occupy("sleeper", "gone")
        refit = world.run("v1")
        await world.until(lambda: world.rows() == {"a": "updated", "sleeper": "draining", "gone": "draining"})
        world.fleet.apply(SleepRequested(world.worker("sleeper").worker_id))
        world.fleet.apply(RemovalRequested(world.worker("gone").worker_id, force=True))
        reply = await refit
        assert statuses(reply) == {"a": 200, "sleeper": 409, "gone": 409}
        assert world.rows() == {"a": "updated", "sleeper": "superseded", "gone": "superseded"}


async def test_who_cannot_be_refit_is_skipped_with_the_reason() -> None:
    async with refit_world("a", "held") as world:
        world.fleet.apply(HoldRequested(world.worker("held").worker_id))
        reply = await world.run("v1")
        assert [(row.worker_url, row.reason) for row in reply.skipped] == [("http://held:1", "draining")]
        assert (statuses(reply), reply.success) == ({"a": 200}, True)
        assert world.rows() == {"a": "updated", "held": "skipped"}


async def test_a_worker_that_is_gone_when_it_is_asked_is_skipped() -> None:
    async with refit_world("a", "b") as world:

        async def flush() -> bool:
            if world.shows().ended_at is None:
                world.fleet.apply(RemovalRequested(world.worker("b").worker_id, force=True))
            return True

        world.shelf.flush = flush  # type: ignore[method-assign]
        reply = await world.run("v1")
        assert (statuses(reply), [row.worker_url for row in reply.skipped]) == ({"a": 200}, ["http://b:1"])


async def test_when_nobody_is_left_to_ask_the_refit_fails_and_says_so() -> None:
    async with refit_world("a") as world:

        async def flush() -> bool:
            if world.shows().ended_at is None:
                world.fleet.apply(RemovalRequested(world.worker("a").worker_id, force=True))
            return True

        world.shelf.flush = flush  # type: ignore[method-assign]
        with pytest.raises(NoEligibleWorker):
            await world.run("v1")
        assert (world.shows().status, world.rows()) == ("failed", {"a": "skipped"})
        assert world.fleet.pool.ledger.group("m").open is None


@pytest.mark.parametrize("news", [WorkerDied, WorkerRestarted])
async def test_a_success_of_a_process_that_is_gone_by_then_is_none(news: type) -> None:
    async with refit_world("a", "b") as world:
        world.loads.hold("b")
        refit = world.run("v1")
        await world.until_called("a", "b")
        facts = (world.worker("b").worker_id, world.worker("b").incarnation)
        world.fleet.apply(WorkerDied(*facts, "it was killed") if news is WorkerDied else WorkerRestarted(*facts))
        world.loads.let_go("b")
        reply = await refit
        assert (statuses(reply), world.rows()["b"], reply.success) == ({"a": 200, "b": 502}, "lost", False)
        assert world.weights()["b"][1] != "current"


async def test_a_success_is_void_when_the_silent_connection_has_ended_and_that_proves_a_restart() -> None:
    async with refit_world("a", "b") as world:
        world.loads.hold("b")
        refit = world.run("v1")
        await world.until_called("a", "b")
        facts = (world.worker("b").worker_id, world.worker("b").incarnation)
        world.fleet.apply(SentinelEnded(*facts))
        world.loads.let_go("b")
        await settle()
        assert not refit.done()
        world.fleet.apply(SentinelLost(*facts, connections=0))
        assert (statuses(await refit), world.rows()["b"]) == ({"a": 200, "b": 502}, "lost")


async def test_a_worker_that_never_ends_is_given_up() -> None:
    async with refit_world("a", "b", call_limit_s=0.3) as world:
        world.loads.hold("b")
        reply = await world.run("v1", drain_limit_s=0.1)
        assert (statuses(reply), world.rows()["b"]) == ({"a": 200, "b": 502}, "lost")
        assert world.fleet.pool.ledger.group("m").open is None


async def test_the_router_breaking_off_takes_the_fence_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async with refit_world("a") as world:
        monkeypatch.setattr(world.fleet, "ask", lambda _event: 1 / 0)
        with pytest.raises(ExceptionGroup):
            await world.run("v1")
        assert (serving(world), world.shows().status) == ({"a"}, "failed")
        assert [saved.is_open for saved in world.shelf.kept.values()] == [False]


async def test_a_router_that_ends_leaves_the_refit_open_for_its_next_run() -> None:
    async with refit_world("a") as world:
        world.loads.hold("a")
        refit = world.run("v1")
        await world.until_called("a")
        await world.refitter.aclose()
        with pytest.raises(asyncio.CancelledError):
            await refit
        opened = world.fleet.pool.ledger.group("m").open
        assert opened is not None
        assert opened.refit_id == world.shows().id
        assert [saved.is_open for saved in world.shelf.kept.values()] == [True]


# Rolling.


async def test_a_rolling_refit_keeps_the_others_at_work_on_the_old_weights() -> None:
    async with refit_world("a", "b", "c") as world:
        world.loads.hold("a", "b", "c")
        refit = world.run("v1", mode=Mode.ROLLING)
        for hosts, left in ((["a"], {"b", "c"}), (["a", "b"], {"a", "c"}), (["a", "b", "c"], {"a", "b"})):
            await world.until_called(*hosts)
            assert serving(world) == left
            world.loads.let_go(hosts[-1])
        assert (await refit).success
        assert serving(world) == {"a", "b", "c"}


async def test_no_more_than_max_unavailable_are_out_together() -> None:
    async with refit_world("a", "b", "c", "d") as world:
        world.loads.hold("a", "b", "c", "d")
        refit = world.run("v1", mode=Mode.ROLLING, at_once=2)
        await world.until_called("a", "b")
        assert (serving(world), world.rows()) == (
            {"c", "d"},
            {"a": "updating", "b": "updating", "c": "waiting", "d": "waiting"},
        )
        world.loads.let_go("b")
        await world.until_called("a", "b", "c")
        assert serving(world) == {"b", "d"}
        for host in ("a", "c", "d"):
            world.loads.let_go(host)
        assert (await refit).success


async def test_whoever_has_least_to_finish_goes_first() -> None:
    async with refit_world("busy", "idle") as world:
        world.occupy("busy")
        world.loads.hold("idle")
        refit = world.run("v1", mode=Mode.ROLLING)
        await world.until_called("idle")
        world.finish("busy")
        world.loads.let_go("idle")
        assert (await refit).success


async def test_where_only_the_new_weights_may_serve_the_old_ones_stop_with_the_first_success() -> None:
    async with refit_world("a", "b", "c") as world:
        world.loads.hold("a", "b", "c")
        refit = world.run("v1", mode=Mode.ROLLING, admit_new=True)
        await world.until_called("a")
        assert serving(world) == {"b", "c"}
        world.loads.let_go("a")
        await world.until_called("a", "b")
        assert serving(world) == {"a"}
        world.loads.let_go("b")
        world.loads.let_go("c")
        assert (await refit).success


@pytest.mark.parametrize(("answer", "word"), [(REFUSED, "refused"), (LOST, "lost")])
async def test_a_rolling_refit_that_fails_where_it_comes_first_leaves_the_rest_alone(answer: Answer, word: str) -> None:
    async with refit_world("a", "b", "c") as world:
        world.loads.answers = {"a": [answer]}
        reply = await world.run("v1", mode=Mode.ROLLING)
        assert (world.loads.hosts, serving(world) >= {"b", "c"}) == (["a"], True)
        assert (len(reply.results), reply.success, reply.weight_version) == (1, False, None)
        why = f"the refit was stopped after http://a:1 had {word} it: {answer.message}"
        assert [(row.worker_url, row.reason) for row in reply.skipped] == [("http://b:1", why), ("http://c:1", why)]
        assert world.rows() == {"a": word, "b": "skipped", "c": "skipped"}


async def test_a_rolling_refit_goes_on_over_a_failure_once_it_has_succeeded_somewhere() -> None:
    async with refit_world("a", "b", "c") as world:
        world.loads.answers = {"b": [REFUSED]}
        reply = await world.run("v1", mode=Mode.ROLLING)
        assert (statuses(reply), serving(world)) == ({"a": 200, "b": 400, "c": 200}, {"a", "c"})
        assert world.weights()["b"] == (BASE, "stale")


# Immediate.


async def test_an_immediate_refit_does_not_wait_for_work_and_fences_new_work() -> None:
    async with refit_world("busy") as world:
        world.occupy("busy")
        world.loads.hold("busy")
        refit = world.run("v1", mode=Mode.IMMEDIATE)
        await world.until_called("busy")
        assert (serving(world), world.fleet.scheduler.in_flight(world.worker("busy").worker_id)) == (set(), 1)
        world.loads.let_go("busy")
        assert (await refit).success
        assert serving(world) == {"busy"}
        world.finish("busy")


# Names.


async def test_the_same_version_again_is_a_refit_like_any_other() -> None:
    async with refit_world("a", "b") as world:
        await world.run("v1")
        world.loads.hold("b")
        again = world.run("v1")
        await world.until_called("a", "b", "a", "b")
        await world.until(lambda: serving(world) == {"a"})
        world.loads.let_go("b")
        assert (await again).success
        assert serving(world) == {"a", "b"}


async def test_a_worker_that_missed_the_second_refit_to_one_version_is_not_taken_for_one_that_has_it() -> None:
    async with refit_world("a", "b") as world:
        await world.run("v1")
        world.loads.answers = {"b": [REFUSED]}
        await world.run("v1", content=b'{"model_path":"another"}')
        assert (world.weights()["a"], serving(world)) == (("v1", "current"), {"a"})
        assert world.weights()["b"][1] != "current"


async def test_it_is_a_span_with_one_for_each_worker() -> None:
    async with refit_world("a", "b") as world:
        world.loads.answers = {"b": [REFUSED]}
        await world.run("v1")
        (said, error) = world.recorded.said("refit")[0]
        refit_id = said.pop("refit")
        assert (said, error) == (
            {
                "route": "/update_weights_from_disk",
                "mode": "drain",
                "weight_version": "v1",
                "workers": 2,
                "updated": 1,
            },
            "not_all_updated",
        )
        assert refit_id == world.shows().id
        each = sorted(world.recorded.said("refit_worker"), key=lambda one: str(one[0]["worker"]))
        assert each == [
            ({"worker": "http://a:1", "outcome": "done"}, None),
            ({"worker": "http://b:1", "outcome": "refused"}, "refused"),
        ]
        (whole,) = [span for span in world.recorded.spans if span.name == "refit"]
        assert {span.parent for span in world.recorded.spans if span is not whole} == {whole.context}


async def test_a_refit_that_the_router_s_end_breaks_off_is_a_span_that_failed() -> None:
    async with refit_world("a") as world:
        world.loads.hold("a")
        refit = world.run("v1")
        await world.until_called("a")
        await world.refitter.aclose()
        with pytest.raises(asyncio.CancelledError):
            await refit
        assert [error for _, error in world.recorded.said("refit")] == ["CancelledError"]
