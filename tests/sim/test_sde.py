import itertools
import math

import numpy as np
import pytest

from sglang_diffusion_routing.sim import sde
from sglang_diffusion_routing.sim.flow import Floats, Mixture

pytestmark = pytest.mark.core

RNG = np.random.default_rng(0)
X: Floats = RNG.standard_normal(64, dtype=np.float32)
VELOCITY: Floats = RNG.standard_normal(64, dtype=np.float32)


def test_the_ode_step_is_eulers() -> None:
    move = sde.ode_step(X, VELOCITY, 0.8, 0.5)
    np.testing.assert_allclose(move.mean, X - 0.3 * VELOCITY, rtol=1e-5, atol=1e-6)
    assert move.std == 0.0


def test_the_sde_step_has_the_mean_and_spread_of_flow_grpo() -> None:
    # arXiv:2505.05470, eq. 9: x + [v + g^2 / (2 t) (x + (1 - t) v)] dt + g sqrt(|dt|) e, with g = eta sqrt(t / (1 - t))
    t, following, eta = 0.6, 0.45, 0.7
    g, dt = eta * math.sqrt(t / (1 - t)), following - t
    mean = X + (VELOCITY + g**2 / (2 * t) * (X + (1 - t) * VELOCITY)) * dt

    move = sde.sde_step(X, VELOCITY, t, following, sigma_max=0.9, eta=eta)

    np.testing.assert_allclose(move.mean, mean, rtol=1e-5, atol=1e-6)
    assert move.std == pytest.approx(g * math.sqrt(-dt))
    assert move.mean.dtype == np.float32


def test_the_first_sde_step_takes_its_diffusion_from_the_second_level() -> None:
    move = sde.sde_step(X, VELOCITY, 1.0, 0.9, sigma_max=0.9, eta=0.7)
    assert move.std == pytest.approx(0.7 * math.sqrt(1.0 / 0.1) * math.sqrt(0.1))


def test_without_noise_the_sde_step_is_eulers() -> None:
    quiet = sde.sde_step(X, VELOCITY, 0.6, 0.45, sigma_max=0.9, eta=0.0)
    np.testing.assert_allclose(quiet.mean, sde.ode_step(X, VELOCITY, 0.6, 0.45).mean, rtol=1e-6)
    assert quiet.std == 0.0


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_the_cps_step_keeps_the_coefficients_of_data_and_noise(eta: float) -> None:
    # with x = (1 - s) d + s e and v = e - d, the mean must be (1 - s') d + k e with k^2 + std^2 = s'^2
    data, noise = RNG.standard_normal(64, dtype=np.float32), RNG.standard_normal(64, dtype=np.float32)
    sigma, following = 0.7, 0.5
    x = ((1 - sigma) * data + sigma * noise).astype(np.float32)

    move = sde.cps_step(x, noise - data, sigma, following, eta=eta)

    kept = math.sqrt(following**2 - move.std**2)
    np.testing.assert_allclose(move.mean, (1 - following) * data + kept * noise, rtol=1e-4, atol=1e-5)
    assert move.std == pytest.approx(following * math.sin(eta * math.pi / 2))


def test_the_last_cps_step_has_no_randomness() -> None:
    assert sde.cps_step(X, VELOCITY, 0.1, 0.0, eta=0.7).std == 0.0


def test_the_sde_keeps_the_marginals_of_the_flow() -> None:
    # many small random steps from the exact marginal at 0.6 end in the exact marginal at 0.3
    field = Mixture(means=np.array([[1.0], [-1.0]], dtype=np.float32), scale=0.3)
    rng, count = np.random.default_rng(3), 20_000
    x = (0.4 * (field.means[rng.integers(0, 2, count), 0] + 0.3 * rng.standard_normal(count))).astype(np.float32)
    x += np.float32(0.6) * rng.standard_normal(count, dtype=np.float32)
    levels = np.linspace(0.6, 0.3, 151)
    for level, following in itertools.pairwise(levels):
        velocity = _pointwise(field, x, float(level))
        move = sde.sde_step(x, velocity, float(level), float(following), sigma_max=0.9, eta=0.7)
        x = move.mean + np.float32(move.std) * rng.standard_normal(count, dtype=np.float32)

    expected = 0.7**2 * (1.0 + 0.3**2) + 0.3**2
    assert x.mean() == pytest.approx(0.0, abs=0.03)
    assert x.var() == pytest.approx(expected, rel=0.04)


def _pointwise(field: Mixture, x: Floats, t: float) -> Floats:
    """The velocity of a one-dimensional mixture at many points at once, by its definition."""
    variance = (1 - t) ** 2 * field.scale**2 + t**2
    gaps = x[:, None] - (1 - t) * field.means[:, 0][None]
    weights = np.exp(-(gaps**2) / (2 * variance))
    weights /= weights.sum(axis=1, keepdims=True)
    velocities = t / variance * gaps - (field.means[:, 0] + (1 - t) * field.scale**2 / variance * gaps)
    return np.asarray((weights * velocities).sum(axis=1), dtype=np.float32)


def test_the_log_probability_is_the_mean_log_density_of_the_transition() -> None:
    noise, std = RNG.standard_normal(1000, dtype=np.float32), 0.37
    densities = np.exp(-0.5 * noise.astype(float) ** 2) / (std * math.sqrt(2 * math.pi))
    assert sde.log_prob(noise, std, without_constants=False) == pytest.approx(np.log(densities).mean(), abs=1e-6)


def test_without_constants_it_is_minus_the_squared_deviation() -> None:
    noise, std = RNG.standard_normal(1000, dtype=np.float32), 0.37
    assert sde.log_prob(noise, std, without_constants=True) == pytest.approx(-np.mean((std * noise) ** 2), rel=1e-6)


def test_a_step_without_randomness_has_no_density() -> None:
    noise = np.zeros(4, dtype=np.float32)
    assert math.isnan(sde.log_prob(noise, 0.0, without_constants=False))
    assert sde.log_prob(noise, 0.0, without_constants=True) == 0.0
