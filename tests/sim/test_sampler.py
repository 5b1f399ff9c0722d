import math
from typing import Any

import numpy as np
import pytest

from sglang_diffusion_routing.sim.flow import Floats
from sglang_diffusion_routing.sim.model import Model
from sglang_diffusion_routing.sim.sampler import GenerationFailed, Plan, RolloutPlan, Sample, sample
from sglang_diffusion_routing.sim.settings import SimSettings

pytestmark = pytest.mark.core


def run(plan: Plan, **settings: Any) -> list[Sample]:
    model = Model(SimSettings(**settings))
    return sample(plan, model.transformer, model.vae, lambda _done: None)


def plan(rollout: RolloutPlan | None = None, **changes: Any) -> Plan:
    fields: dict[str, Any] = {"prompt": "a cat", "seeds": (1,), "width": 64, "height": 64, "steps": 4}
    return Plan(**{**fields, **changes}, rollout=rollout)


def held(tensor: Floats | None) -> Floats:
    assert tensor is not None
    return tensor


@pytest.mark.parametrize("sde_type", ["sde", "cps"])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_log_probabilities_can_be_recomputed_from_the_trajectory(sde_type: Any, steps: int) -> None:
    """Density of each x_{t+1} given x_t, from positions, means and spreads alone, without the noise that was drawn."""
    result = run(plan(RolloutPlan(sde_type=sde_type, trajectory=True), steps=steps))[0]

    positions, means, stds = held(result.trajectory), held(result.means), held(result.stds)
    random = [step for step in range(steps) if stds[step, 0] > 0]
    for step in random:
        std = float(stds[step, 0])
        deviation = (positions[step + 1].astype(float) - means[step]) / std
        expected = np.mean(-0.5 * deviation**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
        assert held(result.log_probs)[step] == pytest.approx(expected, abs=1e-5)
    assert random == list(range(steps if sde_type == "sde" else steps - 1))
    assert np.isnan(held(result.log_probs)).tolist() == [step not in random for step in range(steps)]


def test_means_follow_from_positions_and_model_outputs() -> None:
    """A trainer that has only latents, outputs and levels arrives at the same means by Flow-GRPO's formula."""
    result = run(plan(RolloutPlan(trajectory=True)))[0]
    positions, outputs, sigmas = held(result.trajectory), held(result.model_outputs), result.sigmas.astype(float)
    for step in range(4):
        t, dt = sigmas[step], sigmas[step + 1] - sigmas[step]
        diffusion = 0.7 * math.sqrt(t / (1 - (sigmas[1] if t == 1 else t)))
        x, v = positions[step], outputs[step]
        mean = x + (v + diffusion**2 / (2 * t) * (x + (1 - t) * v)) * dt
        np.testing.assert_allclose(held(result.means)[step], mean, rtol=1e-4, atol=1e-4)
        assert held(result.stds)[step, 0] == pytest.approx(diffusion * math.sqrt(-dt), rel=1e-5)


def test_a_position_is_the_mean_plus_the_noise() -> None:
    result = run(plan(RolloutPlan(trajectory=True)))[0]
    following = held(result.means) + held(result.stds)[:, :, None, None] * held(result.noises)
    np.testing.assert_allclose(held(result.trajectory)[1:], following, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(held(result.trajectory)[-1], result.latent)


def test_shapes_are_those_of_a_real_reply() -> None:
    result = run(plan(RolloutPlan(trajectory=True)))[0]
    tensors = {
        "log_probs": result.log_probs,
        "noises": result.noises,
        "means": result.means,
        "stds": result.stds,
        "model_outputs": result.model_outputs,
        "trajectory": result.trajectory,
        "timesteps": result.timesteps,
        "sigmas": result.sigmas,
        "colours": result.colours(),
    }
    assert {name: held(tensor).shape for name, tensor in tensors.items()} == {
        "log_probs": (4,),
        "noises": (4, 16, 8, 8),
        "means": (4, 16, 8, 8),
        "stds": (4, 1),
        "model_outputs": (4, 16, 8, 8),
        "trajectory": (5, 16, 8, 8),
        "timesteps": (5,),
        "sigmas": (5,),
        "colours": (3, 64, 64),
    }
    assert {held(tensor).dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(held(result.timesteps), result.sigmas * 1000, rtol=1e-6)


@pytest.mark.parametrize(("frames", "latent_frames", "pictures"), [(1, 1, 1), (5, 2, 5), (17, 5, 17), (6, 2, 5)])
def test_a_video_latent_frame_stands_for_four_frames(frames: int, latent_frames: int, pictures: int) -> None:
    result = run(plan(frames=frames), model="wan")[0]
    assert result.latent.shape == (16, latent_frames, 8, 8)
    assert result.colours().shape == (3, pictures, 64, 64)


def test_the_same_seed_gives_the_same_sample() -> None:
    first, second = (run(plan(RolloutPlan()))[0] for _ in range(2))
    np.testing.assert_array_equal(first.latent, second.latent)


def test_each_output_has_its_own_seed_and_does_not_depend_on_the_others() -> None:
    together = run(plan(RolloutPlan(), seeds=(1, 2)))
    alone = run(plan(RolloutPlan(), seeds=(2,)))
    assert not np.array_equal(together[0].latent, together[1].latent)
    np.testing.assert_array_equal(together[1].latent, alone[0].latent)


@pytest.mark.parametrize("changes", [{"prompt": "a dog"}, {"seeds": (2,)}])
def test_another_prompt_or_seed_gives_another_sample(changes: dict[str, Any]) -> None:
    assert not np.array_equal(run(plan())[0].latent, run(plan(**changes))[0].latent)


def test_other_weights_give_another_sample() -> None:
    assert not np.array_equal(run(plan())[0].latent, run(plan(), weights_seed=1)[0].latent)


def test_only_the_chosen_steps_are_random() -> None:
    result = run(plan(RolloutPlan(sde_steps=frozenset({1}))))[0]
    assert (held(result.stds)[:, 0] > 0).tolist() == [False, True, False, False]
    assert (held(result.log_probs) != 0).tolist() == [False, True, False, False]


def test_only_the_chosen_latents_are_returned() -> None:
    whole = run(plan(RolloutPlan(trajectory=True)))[0]
    some = run(plan(RolloutPlan(trajectory=True, return_steps=frozenset({0, 4}))))[0]
    np.testing.assert_array_equal(held(some.trajectory), held(whole.trajectory)[[0, 4]])
    np.testing.assert_array_equal(held(some.timesteps), held(whole.timesteps)[[0, 4]])


def test_an_ode_rollout_ends_where_a_plain_run_does() -> None:
    plain = run(plan())[0]
    rollout = run(plan(RolloutPlan(sde_type="ode", without_constants=True)))[0]
    np.testing.assert_array_equal(plain.latent, rollout.latent)
    assert held(rollout.log_probs).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        (RolloutPlan(noise_level=0.0), "True log-probability computation requires a non-zero noise level."),
        (
            RolloutPlan(sde_type="ode"),
            (
                "p_ode is always 0, true log_prob is meaningless, "
                "set rollout_log_prob_no_const to True to enable log_prob computation"
            ),
        ),
    ],
)
def test_a_log_probability_that_does_not_exist_is_refused(rollout: RolloutPlan, message: str) -> None:
    with pytest.raises(GenerationFailed) as refusal:
        run(plan(rollout))
    assert str(refusal.value) == message


def test_every_step_is_told() -> None:
    model, told = Model(SimSettings()), list[int]()
    sample(plan(), model.transformer, model.vae, told.append)
    assert told == [1, 2, 3, 4]
