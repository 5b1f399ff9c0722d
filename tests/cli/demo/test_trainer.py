"""Tests of the reward and of the training step."""

from pathlib import Path

import numpy as np
import pytest

from sglang_diffusion_routing.cli.demo import trainer
from sglang_diffusion_routing.sim.sampler import Plan, RolloutPlan, Sample, sample
from sglang_diffusion_routing.sim.weights import load_modules, module_checksum, write_checkpoint

pytestmark = pytest.mark.core

STEPS = 4


def test_red_is_warm_and_blue_is_cold() -> None:
    red, blue = np.zeros((2, 3, 8, 8), dtype=np.float32)
    red[0] = 1
    blue[2] = 1
    assert (trainer.warmth(red), trainer.warmth(blue), trainer.warmth(red + blue)) == (1, -1, 0)


def test_advantages_compare_the_samples_of_a_prompt() -> None:
    np.testing.assert_allclose(trainer.advantages([1, 3]), [-1, 1], atol=1e-5)
    np.testing.assert_array_equal(trainer.advantages([2, 2, 2]), [0, 0, 0])


def test_the_gradient_points_to_the_samples_that_won() -> None:
    winner, loser = np.zeros((2, 16, 8, 8), dtype=np.float32)
    winner[3] = 1  # an even field in one channel
    direction = trainer.gradient([([1.0, 0.0], [winner, loser])])
    expected = np.zeros((16, 5, 5), dtype=np.float32)
    expected[3, 0, 0] = 20  # all of it in one of 400 numbers, of mean square 1
    np.testing.assert_allclose(direction, expected, atol=1e-4)


def test_equal_samples_give_no_direction() -> None:
    latent = np.ones((16, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(trainer.gradient([([1.0, 1.0], [latent, latent])]), np.zeros((16, 5, 5)))


def rolled_out(checkpoint: Path) -> list[list[Sample]]:
    weights = load_modules(str(checkpoint), ["transformer", "vae"])
    rollout = RolloutPlan(trajectory=True, debug=False, return_steps=frozenset([STEPS]))
    return [
        sample(
            Plan(prompt, tuple(range(4)), 64, 64, STEPS, rollout=rollout),
            weights["transformer"],
            weights["vae"],
            lambda done: None,
        )
        for prompt in ("a fox", "a lighthouse", "a tram", "an orchard", "a kite", "a ferry", "a cello", "a buoy")
    ]


def reward(groups: list[list[Sample]]) -> float:
    return float(np.mean([trainer.warmth(made.colours()) for group in groups for made in group]))


def test_a_training_step_raises_the_reward(tmp_path: Path) -> None:
    base, after = tmp_path / "base", tmp_path / "after"
    write_checkpoint(base, seed=0)
    groups = rolled_out(base)
    direction = trainer.gradient(
        [([trainer.warmth(made.colours()) for made in group], [made.latent for made in group]) for group in groups]
    )
    checksum = trainer.train(after, base, direction)
    assert checksum == module_checksum(load_modules(str(after), ["transformer"])["transformer"])
    assert reward(rolled_out(after)) > reward(groups) + 0.05
