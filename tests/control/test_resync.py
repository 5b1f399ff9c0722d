"""What one resync does and says; that it brings workers back is tested with real ones in tests/app/test_resync.py."""

import pytest

from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.resync import Resyncer
from sglang_diffusion_routing.control.worker_api import Answer, Call, Ended
from sglang_diffusion_routing.core.commands import ResyncWeights
from sglang_diffusion_routing.core.events import ChecksumsRead, WeightsChecked
from sglang_diffusion_routing.core.refit import StepKind
from sglang_diffusion_routing.core.weights import Unversioned
from sglang_diffusion_routing.core.worker import Worker, WorkerUrl
from support.engines import GROUP, LOST, REFUSED, Engines, refit, restart, settle
from support.fleet import RecordingFleet
from support.recorded import Recorded

pytestmark = pytest.mark.core

V1, V2 = b'{"model_path":"v1"}', b'{"lora_path":"v2"}'
A, B = "http://a:1", "http://b:1"


class World:
    """Two workers that have made two refits, a checkpoint and a LoRA, of which `other` has then been restarted."""

    def __init__(self) -> None:
        self.fleet = RecordingFleet()
        self.api = Engines(gives={V1: "t-of-v1-and-more", V2: "t-of-v2-and-more"})
        self.baselines = Baselines(self.fleet, self.api, call_limit_s=5.0)
        self.recorded = Recorded()
        self.resyncer = Resyncer(
            self.fleet,
            self.api,
            self.baselines,
            call_limit_s=5.0,
            max_reply_bytes=4096,
            tracer=self.recorded.tracer,
        )
        self.one, self.other = self.fleet.join(A), self.fleet.join(B)

    def refit(self, kind: StepKind = StepKind.SET_LORA, *, known: bool = True) -> None:
        refit(self.fleet, "v1", self.one, self.other)
        refit(self.fleet, "v2", self.one, self.other, kind=kind)
        if known:
            self.know("v2", "t-of-v2-and-more")

    def know(self, loaded: str | Unversioned, checksum: str) -> None:
        """Have the ledger know what `one` hashes to."""
        self.api.sums[A] = {"transformer": checksum}
        found = {"transformer": checksum}
        self.fleet.apply(ChecksumsRead(GROUP, loaded, found, self.one.worker_id, self.one.updates))

    def restart(self, checksum: str = "base-of-another") -> Worker:
        self.api.sums[B] = {"transformer": checksum}
        restart(self.fleet, self.other)
        assert isinstance(self.fleet.commands[-1], ResyncWeights)
        self.api.asked.clear()
        return self.other


@pytest.fixture
async def world() -> World:
    return World()


async def test_missed_refits_are_sent_in_order_and_proven(world: World) -> None:
    world.refit()
    verdict = await world.resyncer.update(world.restart())
    assert (verdict.answer.ended, verdict.outcome, verdict.sent) == (Ended.SUCCEEDED, "replayed", 2)
    assert world.api.sent == [(B, "/update_weights_from_disk", V1), (B, "/v1/set_lora", V2)]
    assert world.api.asked == [B, B]
    assert world.resyncer.outcomes == {"checked": 0, "replayed": 1, "refused": 0, "lost": 0}
    said = {"worker": B, "weight_version": "v2", "outcome": "replayed", "sent": 2}
    assert world.recorded.said("resync") == [(said, None)]


async def test_the_right_weights_are_left_alone(world: World) -> None:
    world.refit()
    verdict = await world.resyncer.update(world.restart("t-of-v2-and-more"))
    assert (verdict.outcome, world.api.sent, world.api.asked) == ("checked", [], [B])


async def test_other_weights_after_the_same_refits_are_suspect(world: World) -> None:
    world.refit()
    world.api.gives[V2] = "something-else"
    verdict = await world.resyncer.update(world.restart())
    assert (verdict.outcome, verdict.unchanged) == ("refused", None)
    assert verdict.answer.message == (
        "its weights are not those of 'v2' (transformer something-el, not t-of-v2-and-); the same refits gave it others"
    )


async def test_without_an_answer_nothing_is_sent(world: World) -> None:
    world.refit()
    worker = world.restart()
    for unsaid in (None, {}):
        world.api.sums[B] = unsaid
        verdict = await world.resyncer.update(worker)
        assert (verdict.outcome, verdict.unchanged, world.api.sent) == ("refused", True, [])


async def test_without_an_answer_afterwards_it_is_suspect(world: World) -> None:
    world.refit()
    worker = world.restart()
    world.api.gives[V2] = None
    verdict = await world.resyncer.update(worker)
    assert (verdict.outcome, verdict.unchanged, verdict.sent) == ("refused", None, 2)


async def test_tensors_are_not_sent_again(world: World) -> None:
    world.refit(StepKind.TENSOR)
    verdict = await world.resyncer.update(world.restart())
    assert (verdict.outcome, verdict.unchanged, world.api.sent) == ("refused", True, [])
    assert verdict.answer.message == (
        "its weights are not those of 'v2' (transformer base-of-anot, not t-of-v2-and-); "
        "weights 'v2' came as tensors, which cannot be sent again"
    )


async def test_a_refusal_at_the_start_that_changed_nothing_leaves_it_stale(world: World) -> None:
    world.refit()
    world.api.answers[V1] = REFUSED
    del world.api.gives[V1]
    verdict = await world.resyncer.update(world.restart())
    assert (verdict.outcome, verdict.unchanged, verdict.sent) == ("refused", True, 0)
    assert verdict.answer.message == "it refused the refit to 'v1': no such path"
    assert len(world.api.sent) == 1


@pytest.mark.parametrize("body", [V1, V2])
async def test_a_refusal_that_changed_something_leaves_it_suspect(world: World, body: bytes) -> None:
    world.refit()
    world.api.answers[body] = REFUSED
    verdict = await world.resyncer.update(world.restart())
    assert (verdict.outcome, verdict.unchanged, world.api.sent[-1][2]) == ("refused", None, body)


async def test_a_refit_without_an_answer_is_lost(world: World) -> None:
    world.refit()
    world.api.answers[V1] = LOST
    verdict = await world.resyncer.update(world.restart())
    assert (verdict.answer, len(world.api.sent)) == (LOST, 1)
    assert world.resyncer.outcomes["lost"] == 1


async def test_peers_are_asked_for_what_nobody_knows(world: World) -> None:
    world.refit(known=False)
    world.api.sums[A] = {"transformer": "t-of-v2-and-more"}
    verdict = await world.resyncer.update(world.restart())
    assert (verdict.outcome, world.api.asked) == ("replayed", [A, B, B])


async def test_where_nobody_can_say_what_is_expected_the_refits_are_sent_on_trust(world: World) -> None:
    world.refit(known=False)
    world.api.sums[A] = {}
    worker = world.restart()
    verdict = await world.resyncer.update(worker)
    assert (verdict.outcome, verdict.sent, world.api.asked) == ("replayed", 2, [A])


async def test_a_first_answer_that_is_on_its_way_is_awaited(world: World) -> None:
    world.refit(known=False)
    world.api.sums[A] = {"transformer": "t-of-v2-and-more"}
    world.baselines.take_new(world.one, GROUP, "v2")
    await settle()
    assert world.api.asked == [A]
    assert (await world.resyncer.update(world.restart("t-of-v2-and-more"))).outcome == "checked"


async def test_without_a_target_it_must_be_like_its_peers(world: World) -> None:
    world.api.sums[A] = {"transformer": "what-all-began-with"}
    verdict = await world.resyncer.update(world.restart("what-all-began-with"))
    assert (verdict.outcome, verdict.differs) == ("checked", False)


async def test_without_a_target_one_that_differs_stays_out(world: World) -> None:
    world.api.sums[A] = {"transformer": "what-all-began-with"}
    verdict = await world.resyncer.update(world.restart())
    assert (verdict.outcome, verdict.unchanged, verdict.differs) == ("refused", True, True)
    assert verdict.answer.message == "its weights are not its peers': transformer base-of-anot, not what-all-beg"


@pytest.mark.parametrize(("peers", "its"), [(None, {"transformer": "x"}), ({"transformer": "x"}, None), (None, None)])
async def test_without_a_target_and_an_answer_it_is_tried_again(
    world: World, peers: dict[str, str] | None, its: dict[str, str] | None
) -> None:
    worker = world.restart()
    world.api.sums = {A: peers, B: its}
    verdict = await world.resyncer.update(worker)
    assert (verdict.outcome, verdict.unchanged, verdict.differs) == ("refused", True, False)


async def test_workers_that_know_no_checksums_cannot_be_told_apart(world: World) -> None:
    worker = world.restart()
    world.api.sums = {A: {}, B: {}}
    assert (await world.resyncer.update(worker)).outcome == "checked"


@pytest.mark.parametrize("same", [True, False])
async def test_a_look_at_a_serving_worker_is_reported(world: World, same: bool) -> None:
    world.refit()
    world.api.sums[B] = {"transformer": "t-of-v2-and-more" if same else "other"}
    expected = WeightsChecked(world.other.worker_id, world.other.incarnation, world.other.updates, same, sequence=2)
    await world.resyncer.check(world.other)
    assert world.fleet.events[-1] == expected


@pytest.mark.parametrize("same", [True, False])
async def test_a_look_at_an_unchecked_worker_compares_it_with_the_target(world: World, same: bool) -> None:
    world.refit()
    worker = world.restart("t-of-v2-and-more" if same else "base")
    await world.resyncer.check(worker)
    facts = (worker.worker_id, worker.incarnation, worker.updates)
    assert world.fleet.events[-1] == WeightsChecked(*facts, matches=same, sequence=2)
    assert world.api.sent == []


async def test_what_a_worker_has_is_learned_from_it(world: World) -> None:
    world.refit(known=False)
    world.api.sums[A] = {"transformer": "t-of-v2-and-more"}
    world.resyncer.learn(world.one)
    await settle()
    assert world.fleet.pool.ledger.expected(GROUP, "v2") == {"transformer": "t-of-v2-and-more"}


async def test_who_was_sent_everything_on_trust_is_held_against_whoever_was_the_first(world: World) -> None:
    world.refit(known=False)
    world.api.sums[A] = None
    worker = world.restart()
    world.api.sums[B] = {"transformer": "base-of-another"}
    send = world.api.send

    async def told_meanwhile(url: WorkerUrl, call: Call) -> Answer:
        world.know("v2", "other")
        return await send(url, call)

    world.api.send = told_meanwhile  # type: ignore[method-assign]
    verdict = await world.resyncer.update(worker)
    assert (verdict.outcome, verdict.sent, verdict.unchanged) == ("refused", 2, None)


async def test_a_look_that_tells_nothing_is_not_reported(world: World) -> None:
    world.refit(known=False)
    before = list(world.fleet.events)
    await world.resyncer.check(world.other)
    world.know("v2", "t-of-v2-and-more")
    world.api.sums[B] = None
    await world.resyncer.check(world.other)
    assert [event for event in world.fleet.events[len(before) :] if isinstance(event, WeightsChecked)] == []


async def test_one_that_does_not_succeed_is_a_span_that_failed(world: World) -> None:
    world.refit()
    world.api.answers[V1] = REFUSED
    verdict = await world.resyncer.update(world.restart())
    assert verdict.answer.ended is Ended.REFUSED
    assert [error for _, error in world.recorded.said("resync")] == ["refused"]
