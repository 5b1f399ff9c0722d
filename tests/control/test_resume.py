"""Refits that the end of an earlier run has interrupted."""

import asyncio
from dataclasses import replace

import pytest

from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.control.resume import refit_of, until_probed
from sglang_diffusion_routing.core.events import (
    CapabilityLearned,
    CommandSucceeded,
    LedgerRestored,
    ProbeSucceeded,
    WakeRequested,
    WorkerRestored,
)
from sglang_diffusion_routing.core.refit import Mode, Recipe, Step, StepKind, step_of
from sglang_diffusion_routing.core.weights import Group, OpenRefit
from sglang_diffusion_routing.core.worker import Capability, WorkerId, WorkerUrl
from sglang_diffusion_routing.schemas import FanOutReply
from sglang_diffusion_routing.store import SavedRefit
from support.engines import settle
from support.refits import DISK, REFUSED, TENSOR, RefitWorld, refit_world

pytestmark = pytest.mark.core

STEP = step_of(StepKind.DISK, "v2", DISK + "?x=1", (("content-type", "a/b"),), b'{"model_path":"x"}')
OPEN = SavedRefit("refit-old-3", "", frozenset({"m"}), "v2", Mode.DRAIN, True, STEP, drain_limit_s=7.0)
TENSORS = step_of(StepKind.TENSOR, "v2", TENSOR)


@pytest.mark.parametrize("kind", [StepKind.DISK, StepKind.SET_LORA])
async def test_what_does_no_harm_twice_is_sent_again_as_it_was(kind: StepKind) -> None:
    refit = refit_of(replace(OPEN, step=replace(STEP, kind=kind)))
    assert refit is not None
    with refit.outgoing.body as body:
        assert b"".join([chunk async for chunk in body.chunks()]) == STEP.body
        assert body.size_bytes == len(STEP.body)
    assert (refit.kind, refit.outgoing.method, refit.outgoing.target) == (kind, "POST", DISK + "?x=1")
    assert (refit.outgoing.headers, refit.version, refit.drain_limit_s) == ({"content-type": "a/b"}, "v2", 7.0)
    assert (refit.pace, refit.content) == (Pace(Mode.DRAIN), STEP.body)


@pytest.mark.parametrize(
    "step", [None, TENSORS, *(replace(STEP, kind=kind) for kind in (StepKind.MERGE_LORA, StepKind.UNMERGE_LORA))]
)
def test_what_would_do_harm_or_is_gone_is_not(step: Step | None) -> None:
    assert refit_of(replace(OPEN, step=step)) is None


def test_a_rolling_one_goes_on_one_by_one() -> None:
    refit = refit_of(replace(OPEN, mode=Mode.ROLLING, admit_new=True, drain_limit_s=None))
    assert refit is not None
    assert (refit.pace, refit.drain_limit_s) == (Pace(Mode.ROLLING, at_once=1, admit_new=True), 1800.0)


async def test_the_first_answers_are_waited_for_but_not_for_ever() -> None:
    async with refit_world() as world:
        await until_probed(world.fleet, 5.0)
        _remember(world, "a", "b")
        waiting = asyncio.ensure_future(until_probed(world.fleet, 5.0))
        _answer(world, "a")
        await settle()
        assert not waiting.done()
        _answer(world, "b")
        await asyncio.wait_for(waiting, 5.0)
        _remember(world, "c")
        await until_probed(world.fleet, 0.01)


def _remember(world: RefitWorld, *hosts: str) -> None:
    for host in hosts:
        world.fleet.apply(WorkerRestored(WorkerUrl.parse(f"http://{host}:1")))


def _answer(world: RefitWorld, host: str) -> None:
    worker = world.fleet.pool.workers[WorkerId(f"http://{host}:1")]
    world.fleet.apply(
        CapabilityLearned(worker.worker_id, worker.incarnation, Capability(("T2I",), ("m",), learned=True))
    )
    world.fleet.apply(ProbeSucceeded(worker.worker_id, worker.incarnation))


def _end_command(world: RefitWorld, host: str) -> None:
    """Have the command that a worker is carrying out succeed."""
    worker = world.worker(host)
    assert worker.command_id is not None
    world.fleet.apply(CommandSucceeded(worker.worker_id, worker.command_id))


def _remember_group(world: RefitWorld, saved: SavedRefit) -> None:
    """Have the ledger say that the refit is open, on top of a target that the group had before."""
    assert saved.step is not None
    opened = OpenRefit(saved.refit_id, saved.version, saved.mode, saved.step)
    group = Group(target="v1", sequence=1, raised={"v1": 1}, raised_by="refit-old-2", open=opened)
    world.fleet.apply(LedgerRestored({"m": group}))


def serving(world: RefitWorld) -> set[str]:
    return {worker.url.host for worker in world.everybody() if world.fleet.pool.is_routable(worker)}


async def test_an_interrupted_refit_goes_on_under_its_name_once_the_workers_have_answered() -> None:
    async with refit_world() as world:
        _remember_group(world, OPEN)
        _remember(world, "a", "b")
        world.refitter.restore([OPEN], within_s=5.0)
        later = world.run("v3")
        _answer(world, "a")
        await settle()
        assert (world.loads.sent, serving(world), later.done()) == ([], set(), False)
        _answer(world, "b")
        assert (await later).weight_version == "v3"
        first = [(host, target, body) for host, target, body in world.loads.sent[:2]]
        assert sorted(first) == [(host, DISK + "?x=1", STEP.body) for host in ("a", "b")]
        shown = world.refitter.log.get("refit-old-3").view()
        assert (shown.status, shown.weight_version) == ("succeeded", "v2")
        assert (world.shelf.kept["refit-old-3"].is_open, world.weights()["a"]) == (False, ("v3", "current"))
        assert list(world.fleet.pool.ledger.group("m").raised) == ["v1", "v2", "v3"]


async def test_an_interrupted_refit_that_fails_now_leaves_no_fence() -> None:
    async with refit_world() as world:
        _remember_group(world, OPEN)
        _remember(world, "a")
        world.loads.answers = {"a": [REFUSED]}
        world.refitter.restore([OPEN], within_s=5.0)
        _answer(world, "a")
        await world.until(lambda: world.refitter.log.get("refit-old-3").status == "failed")
        assert world.fleet.pool.ledger.group("m").open is None


async def _waits(world: RefitWorld) -> None:
    """Wait until the refit has found nobody who could take it."""
    record = world.refitter.log.get("refit-old-3")
    await world.until(lambda: record.reason == "it is sent again as soon as a worker can take it")
    assert (record.status, world.loads.sent, world.shelf.kept) == ("open", [], {})
    assert world.fleet.pool.ledger.group("m").open is not None


async def test_an_interrupted_refit_that_nobody_is_there_for_waits_for_somebody() -> None:
    async with refit_world() as world:
        _remember_group(world, OPEN)
        world.refitter.restore([OPEN], within_s=0.01)
        await _waits(world)
        (worker,) = world.join("a")
        assert not world.fleet.pool.is_routable(worker)
        await world.until(lambda: world.refitter.log.get("refit-old-3").status == "succeeded")
        assert (world.loads.hosts, serving(world)) == (["a"], {"a"})
        assert not world.shelf.kept["refit-old-3"].is_open


async def test_an_interrupted_refit_waits_for_a_fleet_that_sleeps() -> None:
    async with refit_world() as world:
        _remember_group(world, OPEN)
        world.fleet.apply(WorkerRestored(WorkerUrl.parse("http://a:1"), asleep=True))
        world.refitter.restore([OPEN], within_s=0.5)
        _answer(world, "a")
        _end_command(world, "a")
        await _waits(world)
        world.fleet.apply(WakeRequested(WorkerId("http://a:1")))
        _end_command(world, "a")
        assert serving(world) == set()
        await world.until(lambda: world.refitter.log.get("refit-old-3").status == "succeeded")
        assert (world.loads.hosts, serving(world)) == (["a"], {"a"})


async def test_an_interrupted_refit_that_waits_gives_way_to_the_next() -> None:
    async with refit_world() as world:
        _remember_group(world, OPEN)
        world.refitter.restore([OPEN], within_s=0.01)
        await _waits(world)
        world.loads.hold("a")
        (worker,) = world.join("a")
        assert (await asyncio.wait_for(_let_go_once_called(world, world.run("v3")), 5.0)).success
        await world.until(lambda: world.refitter.log.get("refit-old-3").ended_at is not None)
        assert (world.loads.hosts, worker.loaded, world.fleet.pool.ledger.group("m").open) == (["a"], "v3", None)
        shown = world.refitter.log.get("refit-old-3").view()
        assert (shown.status, shown.reason) == (
            "interrupted",
            "other weights came before a worker could be sent it again",
        )
        assert [saved.is_open for saved in world.shelf.kept.values()] == [False, False]


async def _let_go_once_called(world: RefitWorld, refit: asyncio.Task[FanOutReply]) -> FanOutReply:
    await world.until_called("a")
    world.loads.let_go("a")
    return await refit


def _remember_lora_on_checkpoint(world: RefitWorld) -> SavedRefit:
    """Have the ledger say that a LoRA was being set on checkpoint v1 when the router ended."""
    base, lora = replace(STEP, version="v1", body=b"v1"), replace(STEP, kind=StepKind.SET_LORA, body=b"lora")
    group = Group(
        target="v1",
        sequence=1,
        raised={"v1": 1},
        raised_by="refit-old-2",
        open=OpenRefit(OPEN.refit_id, OPEN.version, OPEN.mode, lora),
        recipe=Recipe((base,)),
        checksums={"v1": {"transformer": "v1"}},
        rebased=True,
        held=True,
    )
    world.fleet.apply(LedgerRestored({"m": group}))
    return replace(OPEN, step=lora)


async def test_what_builds_on_a_target_is_sent_again_once_the_workers_have_that() -> None:
    async with refit_world(resync=True) as world:
        # The refit had come as far as to one of them.
        world.loads.weights = {"a": "lora", "b": "v1"}
        saved = _remember_lora_on_checkpoint(world)
        _remember(world, "a", "b")
        world.refitter.restore([saved], within_s=5.0)
        _answer(world, "a")
        _answer(world, "b")
        assert serving(world) == set()
        await world.until(lambda: world.weights() == {"a": ("v2", "current"), "b": ("v2", "current")})
        assert [body for host, _, body in world.loads.sent if host == "b"] == [b"lora"]
        assert next(body for host, _, body in world.loads.sent if host == "a") == b"v1"
        await world.until(lambda: world.refitter.log.get("refit-old-3").status == "succeeded")


async def test_what_builds_on_a_target_waits_until_that_is_there_again() -> None:
    async with refit_world(resync=True) as world:
        world.loads.weights = {"a": "lora"}
        world.loads.hold("a")
        saved = _remember_lora_on_checkpoint(world)
        _remember(world, "a")
        world.refitter.restore([saved], within_s=5.0)
        _answer(world, "a")
        record = world.refitter.log.get("refit-old-3")
        await world.until(lambda: record.reason == "it is sent again as soon as a worker can take it")
        assert [body for _, _, body in world.loads.sent] == [b"v1"]
        world.loads.let_go("a")
        await world.until(lambda: record.status == "succeeded")
        assert [body for _, _, body in world.loads.sent] == [b"v1", b"lora"]


async def test_tensors_that_were_interrupted_are_given_up_and_nobody_is_trusted() -> None:
    async with refit_world() as world:
        saved = replace(OPEN, step=TENSORS)
        _remember_group(world, saved)
        _remember(world, "a")
        world.refitter.restore([saved], within_s=5.0)
        _answer(world, "a")
        shown = world.refitter.log.get("refit-old-3").view()
        assert (shown.status, shown.reason) == (
            "interrupted",
            "the router ended in the middle of it, and it cannot be sent again",
        )
        kept = world.shelf.kept["refit-old-3"]
        assert (kept.is_open, kept.step, world.fleet.pool.ledger.group("m").open) == (False, None, None)
        assert (serving(world), world.loads.sent) == (set(), [])


async def test_an_interrupted_record_names_the_workers_that_it_was_for() -> None:
    async with refit_world("a") as world:
        await world.begin("v1", b"one")
        (saved,) = world.shelf.kept.values()
    async with refit_world("a") as world:
        world.refitter.restore([saved], within_s=5.0)
        shown = world.refitter.log.get(saved.refit_id).view()
        assert (shown.status, [row.worker_url for row in shown.workers]) == ("interrupted", ["http://a:1"])


async def test_refits_that_were_over_are_remembered_and_not_repeated() -> None:
    async with refit_world("a") as world:
        await world.run("v1")
        await settle()
        (saved,) = world.shelf.kept.values()
    async with refit_world("a") as world:
        world.refitter.restore([saved], within_s=5.0)
        await settle()
        shown = world.refitter.log.get(saved.refit_id).view()
        assert (shown.status, [row.status for row in shown.workers]) == ("succeeded", ["updated"])
        assert world.loads.sent == []
