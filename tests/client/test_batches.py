"""Tests of what comes of many rollouts."""

import pytest

from sglang_diffusion_routing.client.batches import Batch, Done, Tally
from sglang_diffusion_routing.client.errors import SamplesMissing, Unreachable
from sglang_diffusion_routing.client.made import Origin, Rollout

pytestmark = pytest.mark.core

MADE = [Rollout((), Origin(f"http://w{index}", "0", 0.0)) for index in range(3)]


def test_rollouts_stand_as_their_prompts_did() -> None:
    tally = Tally(3)
    told = [tally.add(index, MADE[index]) for index in (2, 0, 1)]

    assert [(done.index, done.done, done.total) for done in told] == [(2, 1, 3), (0, 2, 3), (1, 3, 3)]
    assert tally.batch() == Batch(tuple(MADE), {})
    assert tally.batch().complete() == tuple(MADE)


def test_what_there_is_is_given_beside_what_failed() -> None:
    tally = Tally(3)
    error = Unreachable("gone")
    assert tally.add(1, error) == Done(1, None, error, 1, 3)
    tally.add(0, MADE[0])
    tally.add(2, MADE[2])
    batch = tally.batch()

    assert (list(batch), len(batch)) == ([MADE[0], MADE[2]], 2)
    assert batch.rollouts == (MADE[0], None, MADE[2])
    with pytest.raises(SamplesMissing, match="1 of 3 rollouts failed; number 1: gone") as missing:
        batch.complete()
    assert missing.value.failures == {1: error}
