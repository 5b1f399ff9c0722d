"""Refits of the fleet and the router's own of one worker, event by event."""

from __future__ import annotations

import pytest

from core.fleet import T2I, Fleet, url, worker_id
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.commands import AnswerRequest, Outcome
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.mending import RESYNC_FIRST_S, RESYNC_LAST_S
from sglang_diffusion_routing.core.outlook import ResyncPlan
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.state import Health, Intent, WorkerState
from sglang_diffusion_routing.core.weights import Currency, Unversioned
from sglang_diffusion_routing.core.worker import RequestId, Standing, Worker, standing
from sglang_diffusion_routing.errors import Conflict

pytestmark = pytest.mark.core

A, B, C = worker_id("a"), worker_id("b"), worker_id("c")
SUMS = {"transformer": "s1"}


def step(version: str, kind: StepKind = StepKind.DISK) -> Step:
    return Step(kind, version, f"/{kind.value}")


def begin(
    fleet: Fleet, version: str, kind: StepKind = StepKind.DISK, mode: Mode = Mode.DRAIN, *, admit_new: bool = False
) -> str:
    """A transaction begins on group "m"."""
    refit_id = f"refit-to-{version}-{fleet.pool.ledger.group('m').sequence}"
    fleet.apply(ev.RefitOpened(frozenset({"m"}), refit_id, version, mode, step(version, kind), admit_new))
    return refit_id


def ask(fleet: Fleet, name: str, refit_id: str, version: str, *, immediate: bool = False) -> list[do.Command]:
    return fleet.apply(ev.RefitRequested(worker_id(name), refit_id, version, immediate=immediate))


def succeed(fleet: Fleet, name: str) -> list[do.Command]:
    command_id = fleet.worker(name).command_id
    assert command_id is not None
    return fleet.apply(ev.CommandSucceeded(worker_id(name), command_id))


def refuse(
    fleet: Fleet, name: str, why: str = "no", *, unchanged: bool | None = None, differs: bool = False
) -> list[do.Command]:
    command_id = fleet.worker(name).command_id
    assert command_id is not None
    return fleet.apply(ev.CommandRefused(worker_id(name), command_id, why, unchanged, differs))


def lose(fleet: Fleet, name: str) -> list[do.Command]:
    command_id = fleet.worker(name).command_id
    assert command_id is not None
    return fleet.apply(ev.CommandLost(worker_id(name), command_id, "gone"))


def refit(fleet: Fleet, version: str, *names: str, kind: StepKind = StepKind.DISK, mode: Mode = Mode.DRAIN) -> str:
    """A whole transaction on these workers."""
    refit_id = begin(fleet, version, kind, mode)
    for name in names:
        ask(fleet, name, refit_id, version, immediate=mode is Mode.IMMEDIATE)
        succeed(fleet, name)
    fleet.apply(ev.RefitClosed(refit_id))
    return refit_id


def say_checksums(fleet: Fleet, name: str, sums: dict[str, str] | None = None) -> None:
    worker = fleet.worker(name)
    fleet.apply(ev.ChecksumsRead("m", worker.loaded, sums or SUMS, worker.worker_id, worker.updates))


def restart(fleet: Fleet, name: str) -> None:
    """Another process answers there, says what it makes and is well."""
    fleet.apply(ev.WorkerRestarted(worker_id(name), fleet.worker(name).incarnation))
    fleet.learn(name)
    fleet.answer(name)


def fleet_of(*names: str, resync: bool = True, hands_off: bool = False) -> Fleet:
    fleet = Fleet()
    fleet.pool = Pool(resync=resync, hands_off=hands_off)
    for name in names:
        fleet.add(name)
    return fleet


def shown(worker: Worker) -> tuple[str, object]:
    return worker.status.value, worker.loaded


# A fleet's refit


@pytest.mark.parametrize("mode", [Mode.DRAIN, Mode.IMMEDIATE])
def test_nobody_serves_what_it_had_from_the_moment_a_refit_begins(mode: Mode) -> None:
    fleet = fleet_of("a", "b")
    refit_id = begin(fleet, "1", mode=mode)
    late = fleet.add("c")
    assert [standing(fleet.worker(name)) for name in "abc"] == [Standing.COMING] * 3
    assert fleet.ask().waits
    ask(fleet, "a", refit_id, "1")
    succeed(fleet, "a")
    assert [standing(fleet.worker(name)) for name in "abc"] == [Standing.ROUTABLE, Standing.COMING, Standing.COMING]
    assert late.weights_reason == "a refit to '1' is under way"


def test_a_refit_that_brought_nobody_anything_leaves_all_as_they_were() -> None:
    fleet = fleet_of("a", "b")
    refit_id = begin(fleet, "1")
    ask(fleet, "a", refit_id, "1")
    refuse(fleet, "a", unchanged=True)
    assert not fleet.pool.is_routable(fleet.worker("a"))
    fleet.apply(ev.RefitClosed(refit_id))
    assert [shown(fleet.worker(name)) for name in "ab"] == [("active", Unversioned.BASE)] * 2
    assert fleet.pool.ledger.group("m").target is None


def test_a_rolling_refit_lets_the_old_version_serve_until_it_is_over() -> None:
    fleet = fleet_of("a", "b")
    refit_id = begin(fleet, "1", mode=Mode.ROLLING)
    assert standing(fleet.worker("b")) is Standing.ROUTABLE
    ask(fleet, "a", refit_id, "1")
    succeed(fleet, "a")
    assert [standing(fleet.worker(name)) for name in "ab"] == [Standing.ROUTABLE] * 2
    commands = fleet.apply(ev.RefitClosed(refit_id))
    assert commands == [do.AnnounceDrain(B), do.ResyncWeights(B, 2)]
    assert standing(fleet.worker("b")) is Standing.COMING


def test_a_rolling_refit_may_admit_only_the_new_version_as_soon_as_there_is_one() -> None:
    fleet = fleet_of("a", "b")
    refit_id = begin(fleet, "1", mode=Mode.ROLLING, admit_new=True)
    assert standing(fleet.worker("b")) is Standing.ROUTABLE
    ask(fleet, "a", refit_id, "1")
    succeed(fleet, "a")
    assert [standing(fleet.worker(name)) for name in "ab"] == [Standing.ROUTABLE, Standing.COMING]


def test_an_immediate_refit_does_not_wait_for_work() -> None:
    fleet = fleet_of("a")
    running = fleet.ask()
    refit_id = begin(fleet, "1", mode=Mode.IMMEDIATE)
    before = fleet.worker("a").updates
    assert ask(fleet, "a", refit_id, "1", immediate=True) == [do.UpdateWeights(A, 1, refit_id)]
    assert (fleet.worker("a").state, fleet.worker("a").updates) == (WorkerState.UPDATING, before + 1)
    assert running.lease is not None
    assert running.lease.live


def test_the_same_name_for_other_weights_makes_those_who_had_it_suspect() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    fleet.apply(ev.SleepRequested(B))
    succeed(fleet, "b")
    refit(fleet, "1", "a")
    assert shown(fleet.worker("a")) == ("active", "1")
    assert shown(fleet.worker("b")) == ("sleeping", Unversioned.SUSPECT)


def test_no_worker_is_mended_while_a_refit_is_under_way_in_its_group() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    begin(fleet, "2")
    restart(fleet, "b")
    assert (fleet.worker("b").state, standing(fleet.worker("b"))) == (WorkerState.ACTIVE, Standing.COMING)


def test_a_refit_of_one_group_is_nothing_to_another() -> None:
    fleet = fleet_of("a")
    other = fleet.add("b", group="g")
    begin(fleet, "1")
    assert standing(other) is Standing.ROUTABLE
    refit(fleet, "1", "a")
    assert shown(other) == ("active", Unversioned.BASE)


@pytest.mark.parametrize(
    ("kind", "modules"),
    [(StepKind.MERGE_LORA, ()), (StepKind.UNMERGE_LORA, ()), (StepKind.DISK, ("vae",)), (StepKind.SET_LORA, ("vae",))],
)
def test_what_builds_on_other_weights_is_not_given_to_a_worker_that_lacks_them(
    kind: StepKind, modules: tuple[str, ...]
) -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a")
    fleet.apply(ev.HoldRequested(B))
    fleet.apply(ev.WakeRequested(B))
    worker = fleet.worker("b")
    refuse(fleet, "b", "no such file")
    builds = Step(kind, "2", "/", modules=frozenset(modules))
    fleet.apply(ev.RefitOpened(frozenset({"m"}), "r", "2", Mode.DRAIN, builds))
    with pytest.raises(Conflict, match="does not have the weights that this refit builds on"):
        ask(fleet, "b", "r", "2")
    ask(fleet, "a", "r", "2")
    succeed(fleet, "a")
    commands = fleet.apply(ev.RefitClosed("r"))
    assert do.ResyncWeights in map(type, commands)
    assert [missed.version for missed in fleet.pool.resync_plan(worker).steps] == ["1", "2"]


def test_what_builds_on_other_weights_and_loses_them_on_the_way_leaves_the_worker_suspect() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    running = fleet.ask()
    fleet.apply(ev.RefitOpened(frozenset({"m"}), "r", "2", Mode.DRAIN, step("2", StepKind.MERGE_LORA)))
    worker = fleet.worker(running.got)
    ask(fleet, running.got, "r", "2")
    fleet.apply(ev.SentinelLost(worker.worker_id, worker.incarnation, 0))
    fleet.end(running)
    assert worker.state is WorkerState.UPDATING
    succeed(fleet, running.got)
    assert (worker.loaded, fleet.pool.ledger.group("m").target) == (Unversioned.SUSPECT, "1")


def test_a_lora_is_not_set_on_weights_that_nobody_knows() -> None:
    """As when a checkpoint's answer was lost, and the worker was then seen to differ from its peers."""
    fleet = fleet_of("a", "b")
    refit_id = begin(fleet, "1")
    ask(fleet, "b", refit_id, "1")
    lose(fleet, "b")
    fleet.apply(ev.RefitClosed(refit_id))
    fleet.apply(ev.RefitOpened(frozenset({"m"}), "r", "2", Mode.DRAIN, step("2", StepKind.SET_LORA)))
    with pytest.raises(Conflict, match="does not have the weights that this refit builds on"):
        ask(fleet, "b", "r", "2")
    ask(fleet, "a", "r", "2")
    succeed(fleet, "a")
    fleet.apply(ev.RefitClosed("r"))
    fleet.answer("b")
    assert shown(fleet.worker("b")) == ("suspect", Unversioned.SUSPECT)
    assert "below the last refits" in fleet.worker("b").weights_reason


def test_a_lora_is_set_again_where_a_lora_was_all_that_failed() -> None:
    fleet = fleet_of("a", "b")
    for version in ("1", "2"):
        refit_id = begin(fleet, version, StepKind.SET_LORA)
        ask(fleet, "b", refit_id, version)
        (refuse if version == "1" else succeed)(fleet, "b")
        fleet.apply(ev.RefitClosed(refit_id))
    assert shown(fleet.worker("b")) == ("active", "2")


def test_a_checkpoint_on_top_of_a_lora_is_looked_at_where_the_lora_was_missed() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", kind=StepKind.SET_LORA)
    refit_id = begin(fleet, "2")
    if fleet.worker("b").state is WorkerState.UPDATING:
        refuse(fleet, "b", unchanged=True)
    for name in "ab":
        ask(fleet, name, refit_id, "2")
    assert do.CheckWeights not in map(type, succeed(fleet, "a"))
    assert do.CheckWeights(B, 2) in succeed(fleet, "b")
    assert shown(fleet.worker("b")) == ("active", "2")


def test_a_worker_removed_in_the_middle_of_a_refit_and_named_again_is_suspect() -> None:
    fleet = fleet_of("a", "b")
    refit_id = begin(fleet, "1")
    ask(fleet, "b", refit_id, "1")
    fleet.apply(ev.RemovalRequested(B, force=True))
    fleet.apply(ev.RefitClosed(refit_id))
    assert fleet.add("b").loaded is Unversioned.SUSPECT


@pytest.mark.parametrize(
    ("left_with", "named_again"),
    [
        (Unversioned.BASE, Unversioned.BASE),
        (Unversioned.SUSPECT, Unversioned.SUSPECT),
        (Unversioned.OTHER, Unversioned.UNCHECKED),
        (Unversioned.UNCHECKED, Unversioned.UNCHECKED),
    ],
)
def test_a_worker_that_is_named_again_is_trusted_no_more_than_it_was(
    left_with: Unversioned, named_again: Unversioned
) -> None:
    fleet = fleet_of("a", "b")
    match left_with:
        case Unversioned.SUSPECT:
            refit_id = begin(fleet, "1")
            ask(fleet, "b", refit_id, "1")
            refuse(fleet, "b")
            fleet.apply(ev.RefitClosed(refit_id))
        case Unversioned.OTHER:
            restart(fleet, "b")
            refuse(fleet, "b", unchanged=True, differs=True)
        case Unversioned.UNCHECKED:
            fleet.apply(ev.SentinelLost(B, 2, 0))
        case _:
            pass
    assert fleet.worker("b").loaded is left_with
    fleet.apply(ev.RemovalRequested(B))
    assert fleet.register("b").loaded is named_again


def test_a_refit_worker_that_is_named_again_has_to_show_what_it_has() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    fleet.apply(ev.RemovalRequested(B))
    worker = fleet.add("b")
    assert (worker.state, worker.loaded) == (WorkerState.UPDATING, Unversioned.SUSPECT)


# The router's own


@pytest.mark.parametrize("missed", ["restarted", "joined late", "recovered", "woke", "lost", "refused", "cut off"])
def test_a_worker_that_missed_a_refit_is_sent_it_again_before_it_takes_work(missed: str) -> None:
    fleet = fleet_of("a", "b")
    match missed:
        case "restarted":
            refit(fleet, "1", "a", "b")
            restart(fleet, "b")
        case "cut off":
            refit(fleet, "1", "a", "b")
            fleet.apply(ev.SentinelLost(B, fleet.worker("b").incarnation, 0))
            fleet.answer("b")
        case "joined late":
            fleet.apply(ev.RemovalRequested(B, force=True))
            refit(fleet, "1", "a")
            fleet.add("b")
        case "recovered":
            fleet.apply(ev.WorkerDied(B, 2, "killed"))
            refit(fleet, "1", "a")
            fleet.learn("b")
            fleet.answer("b")
        case "woke":
            fleet.apply(ev.SleepRequested(B))
            succeed(fleet, "b")
            refit(fleet, "1", "a")
            fleet.apply(ev.WakeRequested(B))
            succeed(fleet, "b")
        case "lost" | "refused":
            refit_id = begin(fleet, "1")
            ask(fleet, "a", refit_id, "1")
            ask(fleet, "b", refit_id, "1")
            succeed(fleet, "a")
            (lose if missed == "lost" else refuse)(fleet, "b")
            fleet.apply(ev.RefitClosed(refit_id))
            fleet.answer("b")
    worker = fleet.worker("b")
    assert (worker.state, standing(worker)) == (WorkerState.UPDATING, Standing.COMING)
    assert worker.order is not None
    assert (worker.order.resync, worker.order.version) == (True, "1")
    assert fleet.pool.resync_plan(worker) == ResyncPlan("m", "1", None, (step("1"),))
    succeed(fleet, "b")
    assert (shown(worker), worker.weights_reason) == (("active", "1"), "")


def test_a_resync_waits_for_the_worker_s_work_and_is_a_command_of_its_own() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    asker = fleet.ask()
    fleet.apply(ev.WeightsChecked(worker_id(asker.got), fleet.worker(asker.got).incarnation, 1, matches=False))
    worker = fleet.worker(asker.got)
    assert (worker.state, worker.intent) == (WorkerState.DRAINING, Intent.REFIT)
    commands = fleet.end(asker)
    assert commands == [do.ResyncWeights(worker.worker_id, 3)]


def test_tensors_cannot_be_sent_again_and_the_worker_says_so_until_the_next_refit() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b", kind=StepKind.TENSOR)
    restart(fleet, "b")
    worker = fleet.worker("b")
    assert (shown(worker), standing(worker)) == (("stale", Unversioned.UNCHECKED), Standing.AWAY)
    assert worker.weights_reason == ("it does not have '1'; weights '1' came as tensors, which cannot be sent again")
    refit(fleet, "2", "a", "b", kind=StepKind.TENSOR)
    assert shown(worker) == ("active", "2")


def test_with_checksums_known_a_worker_is_looked_at_even_if_nothing_can_be_sent() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b", kind=StepKind.TENSOR)
    say_checksums(fleet, "a")
    fleet.apply(ev.SentinelLost(B, 2, 0))
    fleet.answer("b")
    worker = fleet.worker("b")
    assert fleet.pool.resync_plan(worker) == ResyncPlan(
        "m", "1", SUMS, obstacle="weights '1' came as tensors, which cannot be sent again"
    )
    refuse(fleet, "b", "it has other weights", unchanged=True)
    assert (shown(worker), standing(worker)) == (("stale", Unversioned.UNCHECKED), Standing.AWAY)
    fleet.tick(10 * RESYNC_LAST_S)
    assert worker.state is WorkerState.ACTIVE


def test_a_worker_that_has_another_version_for_certain_is_not_looked_at() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    fleet.apply(ev.SleepRequested(B))
    succeed(fleet, "b")
    refit(fleet, "2", "a", kind=StepKind.TENSOR)
    say_checksums(fleet, "a")
    fleet.apply(ev.WakeRequested(B))
    succeed(fleet, "b")
    assert (shown(fleet.worker("b")), standing(fleet.worker("b"))) == (("stale", "1"), Standing.AWAY)


def test_a_worker_that_has_part_of_the_way_is_sent_the_rest() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    fleet.apply(ev.SleepRequested(B))
    succeed(fleet, "b")
    refit(fleet, "2", "a", kind=StepKind.SET_LORA)
    fleet.apply(ev.WakeRequested(B))
    succeed(fleet, "b")
    assert fleet.pool.resync_plan(fleet.worker("b")).steps == (step("2", StepKind.SET_LORA),)


def test_without_resync_a_worker_that_missed_a_refit_stays_out_until_the_next() -> None:
    fleet = fleet_of("a", "b", resync=False)
    refit(fleet, "1", "a", "b")
    restart(fleet, "b")
    worker = fleet.worker("b")
    assert (shown(worker), standing(worker)) == (("stale", Unversioned.UNCHECKED), Standing.AWAY)
    assert "--no-resync" in worker.weights_reason
    refit(fleet, "2", "a", "b")
    assert shown(worker) == ("active", "2")


def test_a_resync_that_fails_is_tried_again_ever_more_seldom_and_nobody_waits_for_it() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    restart(fleet, "b")
    worker = fleet.worker("b")
    waits: list[float] = []
    for _ in range(9):
        refuse(fleet, "b", "no such file")
        assert (shown(worker), standing(worker)) == (("suspect", Unversioned.SUSPECT), Standing.AWAY)
        assert worker.weights_reason == "no such file"
        waits.append(worker.resync_due_s - fleet.now_s)
        fleet.tick(waits[-1] - 0.5)
        assert worker.state is WorkerState.ACTIVE
        assert do.ResyncWeights in map(type, fleet.tick(0.5))
    assert (waits[0], waits[1], waits[-1]) == (RESYNC_FIRST_S, 2 * RESYNC_FIRST_S, RESYNC_LAST_S)
    succeed(fleet, "b")
    assert (shown(worker), worker.resync_failures) == (("active", "1"), 0)


def test_a_lost_resync_quarantines_and_the_next_answer_begins_another() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    restart(fleet, "b")
    lose(fleet, "b")
    worker = fleet.worker("b")
    assert (worker.health, worker.loaded) == (Health.QUARANTINED, Unversioned.SUSPECT)
    fleet.tick(RESYNC_FIRST_S)
    fleet.answer("b")
    assert worker.state is WorkerState.UPDATING


def test_a_resync_overtaken_by_a_refit_begins_anew() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    restart(fleet, "b")
    refit(fleet, "2", "a")
    assert fleet.worker("b").state is WorkerState.UPDATING
    succeed(fleet, "b")
    worker = fleet.worker("b")
    assert (worker.state, worker.loaded) == (WorkerState.UPDATING, Unversioned.UNCHECKED)
    assert fleet.pool.resync_plan(worker).version == "2"


def test_a_process_replaced_while_it_was_refit_does_not_get_the_credit() -> None:
    fleet = fleet_of("a", "b")
    refit_id = begin(fleet, "1")
    for name in "ab":
        ask(fleet, name, refit_id, "1")
    succeed(fleet, "a")
    fleet.apply(ev.SentinelLost(B, 2, 0))
    succeed(fleet, "b")
    assert fleet.worker("b").loaded is Unversioned.SUSPECT


@pytest.mark.parametrize("what", ["refit", "hold", "sleep", "remove"])
def test_whatever_is_asked_goes_before_a_resync_that_still_drains(what: str) -> None:
    fleet = fleet_of("a", "b", "c")
    refit(fleet, "1", "a", "b", "c")
    asker = fleet.ask()
    worker = fleet.worker(asker.got)
    fleet.apply(ev.WeightsChecked(worker.worker_id, worker.incarnation, 1, matches=False))
    assert worker.order is not None
    assert worker.order.resync
    events: dict[str, ev.Event] = {
        "refit": ev.RefitRequested(worker.worker_id, "r", "2", RequestId("me")),
        "hold": ev.HoldRequested(worker.worker_id, RequestId("me")),
        "sleep": ev.SleepRequested(worker.worker_id, RequestId("me")),
        "remove": ev.RemovalRequested(worker.worker_id, request=RequestId("me")),
    }
    fleet.apply(events[what])
    assert worker.order is not None
    assert (worker.order.requests, worker.order.resync, worker.intent) == (("me",), False, Intent[what.upper()])


def test_a_refit_waits_behind_a_resync_that_has_begun() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    restart(fleet, "b")
    refit_id = begin(fleet, "2")
    fleet.apply(ev.RefitRequested(B, refit_id, "2", RequestId("me")))
    assert succeed(fleet, "b") == [do.AnnounceDrain(B), do.UpdateWeights(B, 4, refit_id)]
    assert succeed(fleet, "b") == [AnswerRequest(RequestId("me"), B, Outcome.DONE)]
    assert shown(fleet.worker("b")) == ("active", "2")


def test_a_sleep_behind_a_resync_is_carried_out() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    restart(fleet, "b")
    fleet.apply(ev.SleepRequested(B))
    assert do.ReleaseMemory in map(type, succeed(fleet, "b"))


def test_a_resync_whose_drain_takes_too_long_is_put_off() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    asker = fleet.ask()
    worker = fleet.worker(asker.got)
    fleet.apply(ev.WeightsChecked(worker.worker_id, worker.incarnation, 1, matches=False))
    fleet.tick(1_801.0)
    assert (worker.state, worker.weights_reason) == (WorkerState.ACTIVE, "the drain limit has passed")


# Without a target


def test_a_restarted_worker_is_compared_with_a_peer() -> None:
    fleet = fleet_of("a", "b")
    restart(fleet, "b")
    worker = fleet.worker("b")
    assert fleet.pool.resync_plan(worker) == ResyncPlan("m", None, None, peer=A)
    assert standing(worker) is Standing.COMING
    succeed(fleet, "b")
    assert shown(worker) == ("active", Unversioned.BASE)


def test_a_restarted_worker_that_differs_from_its_peers_stays_out_until_a_refit() -> None:
    fleet = fleet_of("a", "b")
    restart(fleet, "b")
    refuse(fleet, "b", "differs", unchanged=True, differs=True)
    worker = fleet.worker("b")
    assert (shown(worker), standing(worker)) == (("stale", Unversioned.OTHER), Standing.AWAY)
    fleet.tick(10 * RESYNC_LAST_S)
    assert worker.state is WorkerState.ACTIVE
    refit(fleet, "1", "a", "b")
    assert shown(worker) == ("active", "1")


def test_where_weights_come_past_the_router_a_restarted_worker_serves_uncompared() -> None:
    fleet = fleet_of("a", "b", hands_off=True)
    say_checksums(fleet, "a")
    restart(fleet, "b")
    worker = fleet.worker("b")
    assert (shown(worker), worker.state) == (("active", Unversioned.BASE), WorkerState.ACTIVE)
    refit(fleet, "1", "a")
    restart(fleet, "b")
    assert (shown(worker), worker.state) == (("updating", Unversioned.UNCHECKED), WorkerState.UPDATING)


def test_a_restarted_worker_that_could_not_be_compared_is_asked_again() -> None:
    fleet = fleet_of("a", "b")
    restart(fleet, "b")
    refuse(fleet, "b", "no answer", unchanged=True)
    worker = fleet.worker("b")
    assert (shown(worker), standing(worker)) == (("stale", Unversioned.UNCHECKED), Standing.AWAY)
    fleet.tick(RESYNC_FIRST_S)
    assert worker.state is WorkerState.UPDATING


def test_a_restarted_worker_without_peers_has_what_it_started_with() -> None:
    fleet = fleet_of("a")
    restart(fleet, "a")
    assert shown(fleet.worker("a")) == ("active", Unversioned.BASE)


def test_a_suspect_worker_is_cleared_by_the_checksums_it_had() -> None:
    fleet = fleet_of("a", "b")
    say_checksums(fleet, "a")
    refit_id = begin(fleet, "1")
    ask(fleet, "b", refit_id, "1")
    refuse(fleet, "b")
    fleet.apply(ev.RefitClosed(refit_id))
    worker = fleet.worker("b")
    assert fleet.pool.resync_plan(worker) == ResyncPlan("m", None, SUMS, peer=A)
    succeed(fleet, "b")
    assert shown(worker) == ("active", Unversioned.BASE)


def test_a_suspect_worker_that_nothing_can_clear_stays_out() -> None:
    fleet = fleet_of("a", "b")
    refit_id = begin(fleet, "1")
    ask(fleet, "b", refit_id, "1")
    refuse(fleet, "b")
    fleet.apply(ev.RefitClosed(refit_id))
    assert (shown(fleet.worker("b")), standing(fleet.worker("b"))) == (
        ("suspect", Unversioned.SUSPECT),
        Standing.AWAY,
    )


# Checksums


def test_the_first_report_of_a_versions_checksums_counts() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    say_checksums(fleet, "a")
    say_checksums(fleet, "b", {"transformer": "other"})
    assert fleet.pool.ledger.expected("m", "1") == SUMS


def test_checksums_read_before_an_update_say_nothing_after_it() -> None:
    fleet = fleet_of("a")
    updates = fleet.worker("a").updates
    refit(fleet, "1", "a")
    fleet.apply(ev.ChecksumsRead("m", "1", SUMS, A, updates))
    fleet.apply(ev.ChecksumsRead("m", Unversioned.BASE, SUMS, A, fleet.worker("a").updates))
    assert fleet.pool.ledger.group("m").checksums == {}


@pytest.mark.parametrize("hands_off", [False, True])
def test_a_cut_sentinel_says_nothing_of_weights_that_come_past_the_router(hands_off: bool) -> None:
    fleet = fleet_of("a", hands_off=hands_off)
    say_checksums(fleet, "a")
    fleet.apply(ev.SentinelLost(A, 1, connections=2))
    looked_at = [] if hands_off else [do.CheckWeights(A, 1)]
    assert fleet.answer("a") == [do.OpenSentinel(A, 1), *looked_at]


def test_a_cut_sentinel_has_the_weights_looked_at_and_keeps_the_work() -> None:
    fleet = fleet_of("a")
    refit(fleet, "1", "a")
    say_checksums(fleet, "a")
    worker = fleet.worker("a")
    assert fleet.apply(ev.SentinelLost(A, 1, connections=2)) == [do.ProbeWorker(A, 1)]
    assert fleet.answer("a") == [do.OpenSentinel(A, 1), do.CheckWeights(A, 1)]
    assert fleet.pool.is_routable(worker)
    fleet.apply(ev.WeightsChecked(A, 1, worker.updates, matches=True))
    assert shown(worker) == ("active", "1")
    fleet.apply(ev.WeightsChecked(A, 1, worker.updates - 1, matches=False))
    assert shown(worker) == ("active", "1")
    fleet.apply(ev.WeightsChecked(A, 1, worker.updates, matches=False))
    assert worker.loaded is Unversioned.SUSPECT


def test_a_worker_gets_no_work_while_nobody_knows_why_its_sentinel_ended() -> None:
    fleet = fleet_of("a")
    running = fleet.ask()
    fleet.apply(ev.SentinelEnded(A, 1))
    assert standing(fleet.worker("a")) is Standing.COMING
    assert fleet.ask().waits
    assert running.lease is not None
    assert running.lease.live


def test_a_worker_is_doubted_from_the_end_of_its_sentinel_and_not_from_the_verdict() -> None:
    fleet = fleet_of("a")
    fleet.now_s = 7.0
    fleet.apply(ev.SentinelEnded(A, 1))
    fleet.now_s = 7.05
    fleet.apply(ev.SentinelLost(A, 1, connections=0))
    assert fleet.worker("a").doubted_s == 7.0
    fleet.now_s = 9.0
    fleet.apply(ev.SentinelLost(A, 1, connections=0))
    assert fleet.worker("a").doubted_s == 9.0
    fleet.apply(ev.SentinelLost(A, 1, connections=1))
    assert fleet.worker("a").doubted_s == float("-inf")
    fleet.now_s = 11.0
    fleet.apply(ev.ProbeFailed(A, 1, ProbeFailure.REFUSED))
    assert fleet.worker("a").doubted_s == 11.0


def test_a_worker_that_was_refit_serves_only_while_its_sentinel_stands() -> None:
    fleet = fleet_of("a")
    refit(fleet, "1", "a")
    fleet.opens_sentinels = False
    fleet.apply(ev.SentinelLost(A, 1, connections=1))
    fleet.answer("a")
    assert standing(fleet.worker("a")) is Standing.COMING
    fleet.apply(ev.SentinelOpened(A, 1))
    assert standing(fleet.worker("a")) is Standing.ROUTABLE


def test_a_resync_begins_once_the_sentinel_stands() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    fleet.opens_sentinels = False
    fleet.apply(ev.SentinelLost(B, 2, 0))
    fleet.answer("b")
    assert fleet.worker("b").state is WorkerState.ACTIVE
    assert do.ResyncWeights in map(type, fleet.apply(ev.SentinelOpened(B, 2)))


def test_a_worker_that_wakes_is_watched_at_once() -> None:
    fleet = fleet_of("a")
    fleet.apply(ev.SleepRequested(A))
    succeed(fleet, "a")
    fleet.apply(ev.SentinelLost(A, 1, connections=1))
    fleet.apply(ev.WakeRequested(A))
    assert do.OpenSentinel(A, 1) in succeed(fleet, "a")


@pytest.mark.parametrize("seen_by", ["probe", "work"])
def test_a_worker_that_refuses_connections_unwatched_may_be_another_process_when_it_is_back(seen_by: str) -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    fleet.opens_sentinels = False
    fleet.apply(ev.SentinelLost(B, 2, connections=1))
    if seen_by == "probe":
        fleet.apply(ev.ProbeFailed(B, 2, ProbeFailure.REFUSED))
    else:
        fleet.apply(ev.WorkFailed(B, 2, ProbeFailure.REFUSED))
    assert fleet.worker("b").loaded is Unversioned.UNCHECKED


def test_a_worker_that_refuses_connections_while_its_sentinel_stands_is_the_same_process() -> None:
    fleet = fleet_of("a")
    refit(fleet, "1", "a")
    fleet.apply(ev.ProbeFailed(A, 1, ProbeFailure.REFUSED))
    assert fleet.worker("a").loaded == "1"


def test_a_worker_that_never_answered_has_not_been_replaced() -> None:
    fleet = fleet_of()
    worker = fleet.register("a")
    fleet.apply(ev.ProbeFailed(A, 1, ProbeFailure.REFUSED))
    assert worker.loaded is Unversioned.BASE


def test_a_sleeper_that_never_answered_a_probe_may_be_another_process_too() -> None:
    fleet = fleet_of()
    worker = fleet.register("a")
    fleet.apply(ev.SleepRequested(A))
    succeed(fleet, "a")
    fleet.apply(ev.ProbeFailed(A, 1, ProbeFailure.REFUSED))
    assert (worker.loaded, worker.sleep_first) == (Unversioned.UNCHECKED, True)


# What the trainer says


def report(fleet: Fleet, version: str, *names: str) -> None:
    fleet.apply(
        ev.RefitOpened(frozenset({"m"}), f"report-{version}", version, Mode.IMMEDIATE, step(version, StepKind.REPORTED))
    )
    for name in names:
        fleet.apply(ev.WeightsReported(worker_id(name), f"report-{version}", version))
    fleet.apply(ev.RefitClosed(f"report-{version}"))


def test_reported_weights_make_those_current_and_the_others_stale() -> None:
    fleet = fleet_of("a", "b")
    before = fleet.worker("a").updates
    report(fleet, "7", "a")
    assert shown(fleet.worker("a")) == ("active", "7")
    assert (shown(fleet.worker("b")), standing(fleet.worker("b"))) == (("stale", Unversioned.BASE), Standing.AWAY)
    assert fleet.worker("b").weights_reason == "it does not have '7'; weights '7' did not come through the router"
    assert fleet.worker("a").updates == before + 1


def test_reporting_zero_goes_back_to_what_the_workers_started_with() -> None:
    fleet = fleet_of("a", "b")
    refit(fleet, "1", "a", "b")
    report(fleet, "0", "a", "b")
    assert [shown(fleet.worker(name)) for name in "ab"] == [("active", Unversioned.BASE)] * 2
    assert fleet.pool.ledger.group("m").target is None


def test_a_worker_that_is_being_refit_cannot_be_reported() -> None:
    fleet = fleet_of("a")
    refit_id = begin(fleet, "1")
    ask(fleet, "a", refit_id, "1")
    with pytest.raises(Conflict, match="is being refit"):
        fleet.apply(ev.WeightsReported(A, "report", "7"))


def test_a_worker_of_an_unknown_group_cannot_be_reported() -> None:
    fleet = fleet_of()
    fleet.register("a")
    with pytest.raises(Conflict, match="has not said yet"):
        fleet.apply(ev.WeightsReported(A, "report", "7"))


# After a restart of the router


def remembered(*, checksums: bool = True, kind: StepKind = StepKind.DISK) -> Fleet:
    """A router that remembers target "1" of group "m", and no worker yet."""
    old = fleet_of("x")
    refit(old, "1", "x", kind=kind)
    if checksums:
        say_checksums(old, "x")
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    return fleet


def restore(fleet: Fleet, name: str, *, asleep: bool = False, quarantined: bool = False, held: bool = False) -> Worker:
    fleet.apply(ev.WorkerRestored(url(name), (), None, quarantined, held, asleep))
    return fleet.worker(name)


def appear(fleet: Fleet, name: str) -> list[do.Command]:
    fleet.learn(name, T2I)
    return fleet.answer(name)


def test_a_remembered_target_counts_once_a_worker_is_seen_to_have_it() -> None:
    fleet = remembered()
    first, second = restore(fleet, "a"), restore(fleet, "b")
    assert fleet.ask().waits
    appear(fleet, "a")
    appear(fleet, "b")
    assert fleet.pool.resync_plan(first) == ResyncPlan(
        "m", "1", SUMS, obstacle="a remembered target is not sent to anybody"
    )
    refuse(fleet, "b", "it has other weights", unchanged=True)
    assert standing(second) is Standing.AWAY
    succeed(fleet, "a")
    assert (shown(first), fleet.pool.ledger.group("m").unproven) == (("active", "1"), False)
    assert fleet.pool.resync_plan(second).steps == (step("1"),)
    succeed(fleet, "b")
    assert shown(second) == ("active", "1")


def test_a_worker_that_was_only_looked_at_is_brought_to_a_target_proven_meanwhile() -> None:
    fleet = remembered()
    restore(fleet, "a")
    second = restore(fleet, "b")
    appear(fleet, "a")
    appear(fleet, "b")
    succeed(fleet, "a")
    assert second.state is WorkerState.UPDATING
    refuse(fleet, "b", "it has other weights", unchanged=True)
    assert (second.state, second.resync_failures) == (WorkerState.UPDATING, 0)
    assert fleet.pool.resync_plan(second).steps == (step("1"),)


def test_a_remembered_target_that_nobody_has_is_not_guessed_at() -> None:
    fleet = remembered()
    restore(fleet, "a")
    appear(fleet, "a")
    refuse(fleet, "a", "it has other weights", unchanged=True)
    newcomer = fleet.add("c")
    refuse(fleet, "c", "it has other weights", unchanged=True)
    fleet.tick(10 * RESYNC_LAST_S)
    assert [standing(fleet.worker(name)) for name in "ac"] == [Standing.AWAY] * 2
    assert newcomer.weights_reason == "it has other weights"
    refit(fleet, "2", "a", "c")
    assert [shown(fleet.worker(name)) for name in "ac"] == [("active", "2")] * 2


def test_a_remembered_target_without_checksums_is_sent_again_and_the_first_to_have_it_proves_it() -> None:
    fleet = remembered(checksums=False)
    first, second = restore(fleet, "a"), restore(fleet, "b")
    appear(fleet, "a")
    assert (first.state, standing(first), fleet.ask().waits) == (WorkerState.UPDATING, Standing.COMING, True)
    assert fleet.pool.resync_plan(first) == ResyncPlan("m", "1", None, (step("1"),))
    succeed(fleet, "a")
    assert (shown(first), fleet.pool.ledger.group("m").unproven) == (("active", "1"), False)
    appear(fleet, "b")
    succeed(fleet, "b")
    assert shown(second) == ("active", "1")


def test_a_remembered_target_that_cannot_be_sent_is_tried_again_and_nobody_waits_for_it() -> None:
    fleet = remembered(checksums=False)
    worker = restore(fleet, "a")
    appear(fleet, "a")
    refuse(fleet, "a", "no such path")
    assert (shown(worker), standing(worker)) == (("suspect", Unversioned.SUSPECT), Standing.AWAY)
    assert worker.weights_reason == "no such path"
    fleet.tick(RESYNC_FIRST_S)
    succeed(fleet, "a")
    assert shown(worker) == ("active", "1")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (StepKind.TENSOR, "weights '1' came as tensors, which cannot be sent again"),
        (
            StepKind.MERGE_LORA,
            "what it has below the last refits is unknown, and so are the checksums that would tell",
        ),
    ],
)
def test_a_remembered_target_that_can_neither_be_told_nor_sent_says_so(kind: StepKind, why: str) -> None:
    fleet = remembered(checksums=False, kind=kind)
    worker = restore(fleet, "a")
    appear(fleet, "a")
    assert (worker.state, standing(worker)) == (WorkerState.ACTIVE, Standing.AWAY)
    assert worker.weights_reason == f"no worker has been seen to have the remembered target '1'; {why}"


def test_a_remembered_lora_without_checksums_is_set_again_where_there_was_never_anything_else() -> None:
    fleet = remembered(checksums=False, kind=StepKind.SET_LORA)
    worker = restore(fleet, "a")
    appear(fleet, "a")
    assert fleet.pool.resync_plan(worker).steps == (step("1", StepKind.SET_LORA),)
    succeed(fleet, "a")
    assert shown(worker) == ("active", "1")


def test_a_remembered_checkpoint_on_a_lora_is_led_up_to_from_wherever_a_worker_is() -> None:
    old = fleet_of("x")
    refit(old, "1", "x", kind=StepKind.SET_LORA)
    refit(old, "2", "x")
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    worker = restore(fleet, "a")
    appear(fleet, "a")
    assert fleet.pool.resync_plan(worker).steps == (step("1", StepKind.SET_LORA), step("2"))


def remembered_without_holders(old: Fleet) -> tuple[Fleet, Worker]:
    """The next run of a router, to which one worker comes."""
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    return fleet, restore(fleet, "a")


@pytest.mark.parametrize("loss", ["removed", "restarted", "being updated", "lost", "moved", "being refit"])
def test_a_target_that_nobody_had_any_more_is_sent_again_without_a_proof(loss: str) -> None:
    old = fleet_of("x", "y")
    refit(old, "1", "x")
    say_checksums(old, "x")
    assert old.pool.ledger.group("m").held
    x = old.worker("x")
    match loss:
        case "removed":
            old.apply(ev.RemovalRequested(x.worker_id, force=True))
        case "restarted":
            old.apply(ev.WorkerRestarted(x.worker_id, x.incarnation))
        case "moved":
            old.apply(ev.LabelsSet(x.worker_id, (("group", "other"),)))
        case "being refit":
            begin(old, "2", StepKind.TENSOR, Mode.ROLLING)
        case _:
            refit_id = begin(old, "2", StepKind.TENSOR)
            ask(old, "x", refit_id, "2")
            if loss == "lost":
                lose(old, "x")
            old.apply(ev.RefitClosed(refit_id))
    fleet, worker = remembered_without_holders(old)
    if old.pool.ledger.group("m").open is not None:
        fleet.apply(ev.RefitClosed("refit-to-2-1"))
    appear(fleet, "a")
    assert fleet.pool.resync_plan(worker) == ResyncPlan("m", "1", SUMS, (step("1"),))
    succeed(fleet, "a")
    assert shown(worker) == ("active", "1")


def test_a_target_that_is_not_proven_yet_is_remembered_as_it_was() -> None:
    fleet = remembered()
    restore(fleet, "a")
    appear(fleet, "a")
    refuse(fleet, "a", "it has other weights", unchanged=True)
    assert fleet.pool.ledger.group("m").held
    fleet, worker = remembered_without_holders(fleet)
    appear(fleet, "a")
    assert fleet.pool.resync_plan(worker).steps == ()


def test_a_remembered_sleeper_stays_one_and_is_put_to_sleep_if_it_was_not() -> None:
    fleet = remembered()
    worker = restore(fleet, "a", asleep=True)
    assert (worker.state, standing(worker)) == (WorkerState.SLEEPING, Standing.AWAY)
    assert do.ReleaseMemory(A, 1) in appear(fleet, "a")
    succeed(fleet, "a")
    assert worker.status.value == "sleeping"
    fleet.apply(ev.WakeRequested(A))
    assert do.ResyncWeights in map(type, succeed(fleet, "a"))


def test_a_worker_that_joins_a_remembered_sleeping_fleet_is_put_to_sleep_first() -> None:
    fleet = remembered()
    restore(fleet, "a", asleep=True)
    assert fleet.register("b").sleep_first


@pytest.mark.parametrize("out", ["asleep", "held", "quarantined"])
def test_a_remembered_target_is_proven_by_a_worker_that_gets_no_work(out: str) -> None:
    fleet = remembered()
    holder = restore(fleet, "a", asleep=out == "asleep", held=out == "held", quarantined=out == "quarantined")
    other = restore(fleet, "b")
    appear(fleet, "a")
    appear(fleet, "b")
    refuse(fleet, "b", "it has other weights", unchanged=True)
    if out == "asleep":
        assert fleet.tick(1) == []
        succeed(fleet, "a")
    assert fleet.tick(1) == [do.CheckWeights(A, holder.incarnation)]
    assert (fleet.tick(RESYNC_FIRST_S - 1), fleet.tick(1)) == ([], [do.CheckWeights(A, holder.incarnation)])
    fleet.apply(ev.WeightsChecked(A, holder.incarnation, holder.updates, matches=False, sequence=1))
    assert (holder.loaded, fleet.pool.ledger.group("m").unproven) == (Unversioned.UNCHECKED, True)
    fleet.apply(ev.WeightsChecked(A, holder.incarnation, holder.updates, matches=True, sequence=1))
    assert (holder.loaded, fleet.pool.ledger.group("m").unproven) == ("1", False)
    assert fleet.pool.resync_plan(other).steps == (step("1"),)
    succeed(fleet, "b")
    assert shown(other) == ("active", "1")
    assert fleet.tick(RESYNC_LAST_S) == []


def test_a_look_from_before_the_target_was_raised_again_proves_nothing() -> None:
    fleet = remembered()
    holder = restore(fleet, "a", held=True)
    appear(fleet, "a")
    fleet.add("b")
    refuse(fleet, "b", "it has other weights", unchanged=True)
    refit(fleet, "1", "b")
    fleet.apply(ev.WeightsChecked(A, holder.incarnation, holder.updates, matches=True, sequence=1))
    assert holder.loaded is Unversioned.UNCHECKED


def test_the_checksums_of_a_target_are_asked_for_until_they_are_known() -> None:
    fleet = fleet_of("a")
    worker = fleet.worker("a")
    assert fleet.tick(1) == []
    refit_id = begin(fleet, "1")
    ask(fleet, "a", refit_id, "1")
    succeed(fleet, "a")
    assert fleet.tick(1) == []
    fleet.apply(ev.SleepRequested(A))
    fleet.apply(ev.RefitClosed(refit_id))
    assert fleet.tick(1) == []
    succeed(fleet, "a")
    learn = do.LearnChecksums(A, 1)
    assert worker.state is WorkerState.SLEEPING
    assert [fleet.tick(wait_s) for wait_s in (0, RESYNC_FIRST_S, RESYNC_FIRST_S, RESYNC_FIRST_S)] == [
        [learn],
        [learn],
        [],
        [learn],
    ]
    say_checksums(fleet, "a")
    assert fleet.tick(0) == []
    fleet.apply(ev.WakeRequested(A))
    succeed(fleet, "a")
    refit(fleet, "2", "a")
    assert fleet.tick(0) == [do.LearnChecksums(A, 1)]


def test_nobody_is_asked_for_the_checksums_of_what_nobody_has() -> None:
    fleet = fleet_of("a")
    refit(fleet, "1", "a")
    fleet.apply(ev.RemovalRequested(A, force=True))
    fleet.add("b")
    assert fleet.tick(RESYNC_LAST_S) == []


def test_what_an_operator_did_is_remembered() -> None:
    fleet = fleet_of()
    quarantined, held = restore(fleet, "a", quarantined=True), restore(fleet, "b", held=True)
    appear(fleet, "a")
    appear(fleet, "b")
    assert (quarantined.status.value, held.status.value) == ("quarantined", "draining")
    assert (held.intent, held.order) == (Intent.HOLD, None)


def test_workers_remembered_without_a_target_are_compared_with_each_other() -> None:
    fleet = fleet_of()
    first, second = restore(fleet, "a"), restore(fleet, "b")
    appear(fleet, "a")
    assert shown(first) == ("active", Unversioned.BASE)
    appear(fleet, "b")
    assert fleet.pool.resync_plan(second).peer == A


def test_a_remembered_lora_under_way_is_set_on_workers_that_have_had_nothing_else() -> None:
    old = fleet_of("x")
    refit_id = begin(old, "1", StepKind.SET_LORA)
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    worker = restore(fleet, "a")
    appear(fleet, "a")
    lora = step("1", StepKind.SET_LORA)
    fleet.apply(ev.RefitOpened(frozenset({"m"}), refit_id, "1", Mode.DRAIN, lora))
    ask(fleet, "a", refit_id, "1")
    succeed(fleet, "a")
    assert shown(worker) == ("active", "1")


@pytest.mark.parametrize("checksums", [True, False])
def test_after_a_first_refit_that_nobody_saw_end_no_remembered_worker_passes_for_fresh(*, checksums: bool) -> None:
    old = fleet_of("x")
    if checksums:
        say_checksums(old, "x")
    begin(old, "1", StepKind.TENSOR)
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    worker = restore(fleet, "a")
    fleet.apply(ev.RefitClosed("refit-to-1-0"))
    appear(fleet, "a")
    if checksums:
        assert fleet.pool.resync_plan(worker) == ResyncPlan("m", None, SUMS)
        succeed(fleet, "a")
        assert shown(worker) == ("active", Unversioned.BASE)
    else:
        assert (shown(worker), standing(worker)) == (("suspect", Unversioned.SUSPECT), Standing.AWAY)


def taken_up(fleet: Fleet, version: str, kind: StepKind) -> None:
    """A refit of an earlier run is remembered that the ledger did not know of yet."""
    opened = ev.RefitOpened(frozenset({"m"}), "refit-old", version, Mode.DRAIN, step(version, kind), dormant=True)
    fleet.apply(opened)


def test_a_remembered_refit_may_have_reached_anybody_also_where_the_ledger_did_not_know_of_it() -> None:
    fleet = remembered()
    restore(fleet, "a")
    taken_up(fleet, "2", StepKind.TENSOR)
    fleet.apply(ev.RefitClosed("refit-old"))
    appear(fleet, "a")
    assert fleet.pool.resync_plan(fleet.worker("a")).steps == (step("1"),)
    fleet = fleet_of()
    worker = restore(fleet, "a")
    taken_up(fleet, "1", StepKind.TENSOR)
    fleet.apply(ev.RefitClosed("refit-old"))
    appear(fleet, "a")
    assert (shown(worker), standing(worker)) == (("suspect", Unversioned.SUSPECT), Standing.AWAY)


def test_while_a_remembered_lora_waits_the_workers_are_brought_to_what_it_is_set_on_and_serve_nobody() -> None:
    fleet = remembered()
    worker = restore(fleet, "a")
    fleet.pool.ledger.group("m").rebased = True
    taken_up(fleet, "2", StepKind.SET_LORA)
    appear(fleet, "a")
    assert not fleet.pool.takes(worker, "refit-old")
    assert fleet.pool.resync_plan(worker).steps == (step("1"),)
    succeed(fleet, "a")
    assert (worker.loaded, standing(worker), fleet.pool.takes(worker, "refit-old")) == ("1", Standing.COMING, True)
    assert worker.weights_reason == "a refit to '2' is under way"


def test_while_a_remembered_checkpoint_waits_nobody_is_brought_to_what_it_replaces() -> None:
    fleet = remembered()
    worker = restore(fleet, "a")
    taken_up(fleet, "2", StepKind.DISK)
    appear(fleet, "a")
    assert (worker.state, worker.mends) == (WorkerState.ACTIVE, True)
    assert fleet.pool.takes(worker, "refit-old")


def test_after_a_first_refit_that_reached_nobody_every_remembered_worker_has_what_it_started_with() -> None:
    old = fleet_of("x", "y")
    busy = old.ask()
    refit_id = begin(old, "1", StepKind.TENSOR)
    ask(old, busy.got, refit_id, "1")
    old.apply(ev.SleepRequested(worker_id(busy.got)))
    old.apply(ev.RefitClosed(refit_id))
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    worker = restore(fleet, "a")
    appear(fleet, "a")
    assert shown(worker) == ("active", Unversioned.BASE)


@pytest.mark.parametrize("unchanged", [True, None])
def test_after_a_first_refit_that_was_refused_it_is_known_whether_it_left_anything(*, unchanged: bool | None) -> None:
    old = fleet_of("x")
    refit_id = begin(old, "1")
    ask(old, "x", refit_id, "1")
    refuse(old, "x", unchanged=unchanged)
    old.apply(ev.RefitClosed(refit_id))
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    worker = restore(fleet, "a")
    appear(fleet, "a")
    assert worker.loaded is (Unversioned.BASE if unchanged else Unversioned.SUSPECT)


def test_a_remembered_refit_under_way_keeps_its_fence_until_it_is_taken_up() -> None:
    old = fleet_of("x")
    refit(old, "1", "x")
    say_checksums(old, "x")
    refit_id = begin(old, "2")
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    worker = restore(fleet, "a")
    appear(fleet, "a")
    assert (worker.state, standing(worker)) == (WorkerState.ACTIVE, Standing.COMING)
    fleet.apply(ev.RefitOpened(frozenset({"m"}), refit_id, "2", Mode.DRAIN, step("2")))
    ask(fleet, "a", refit_id, "2")
    succeed(fleet, "a")
    assert shown(worker) == ("active", "2")


def test_a_remembered_refit_whose_first_worker_had_it_is_proven_by_the_next() -> None:
    old = fleet_of("x", "y")
    refit_id = begin(old, "2")
    ask(old, "x", refit_id, "2")
    succeed(old, "x")
    fleet = fleet_of()
    fleet.apply(ev.LedgerRestored(old.pool.ledger.groups))
    worker = restore(fleet, "a")
    appear(fleet, "a")
    assert fleet.pool.ledger.group("m").unproven
    ask(fleet, "a", refit_id, "2")
    succeed(fleet, "a")
    assert (shown(worker), worker.currency) == (("active", "2"), Currency.CURRENT)


def test_a_fatal_probe_of_a_restored_worker_does_not_touch_its_weights() -> None:
    fleet = remembered()
    worker = restore(fleet, "a")
    fleet.apply(ev.ProbeFailed(A, worker.incarnation, ProbeFailure.REFUSED))
    assert (worker.status.value, worker.loaded) == ("quarantined", Unversioned.UNCHECKED)
