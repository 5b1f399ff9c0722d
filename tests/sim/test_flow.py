import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from sglang_diffusion_routing.sim.flow import Mixture, sigma_grid

pytestmark = pytest.mark.core

Doubles = NDArray[np.float64]


def mixture() -> Mixture:
    means = np.array([[1.5, -0.5], [-1.0, 1.0], [0.2, -2.0]], dtype=np.float32)
    return Mixture(means=means, scale=0.4)


def test_the_velocity_of_one_gaussian_is_the_difference_of_two_conditional_means() -> None:
    # x_t = (1 - t) x_0 + t e is jointly Gaussian with x_0 and e: regress both on x_t by hand
    mean, scale, t = np.array([0.7, -0.3]), 0.5, 0.3
    x = np.array([0.9, 0.1])
    variance = (1 - t) ** 2 * scale**2 + t**2
    residual = (x - (1 - t) * mean) / variance
    data, noise = mean + (1 - t) * scale**2 * residual, t * residual

    velocity = Mixture(means=mean[None].astype(np.float32), scale=scale).velocity(x.astype(np.float32), t)

    np.testing.assert_allclose(velocity, noise - data, rtol=1e-5)


def test_the_velocity_is_the_mean_of_noise_minus_data_given_the_point() -> None:
    # Monte Carlo, with no formula: draw pairs, keep those whose x_t falls near the point
    rng, t = np.random.default_rng(0), 0.6
    field = mixture()
    count = 4_000_000
    data = field.means[rng.integers(0, 3, count)] + field.scale * rng.standard_normal((count, 2))
    noise = rng.standard_normal((count, 2))
    points = (1 - t) * data + t * noise
    x = np.array([0.1, -0.2])
    near = np.linalg.norm(points - x, axis=1) < 0.05

    velocity = field.velocity(x.astype(np.float32), t)

    spread = (noise - data)[near].std(axis=0) / np.sqrt(near.sum())
    assert near.sum() > 1000
    np.testing.assert_array_less(np.abs((noise - data)[near].mean(axis=0) - velocity), 5 * spread)


def test_following_the_velocity_from_noise_draws_from_the_mixture() -> None:
    field = mixture()
    rng = np.random.default_rng(1)
    levels = np.linspace(1.0, 0.0, 201)
    ends = []
    for start in rng.standard_normal((600, 2)).astype(np.float32):
        x = start
        for level, following in itertools.pairwise(levels):
            x = x + np.float32(following - level) * field.velocity(x, float(level))
        ends.append(x)
    distances = np.linalg.norm(np.array(ends)[:, None] - field.means[None], axis=2)
    nearest = distances.argmin(axis=1)

    shares: Doubles = np.bincount(nearest, minlength=3) / 600
    np.testing.assert_allclose(shares, 1 / 3, atol=0.07)
    spreads = [np.array(ends)[nearest == k].std(axis=0).mean() for k in range(3)]
    np.testing.assert_allclose(spreads, field.scale, rtol=0.12)


def test_far_from_every_mean_the_velocity_is_finite() -> None:
    x = np.full(2, 1e4, dtype=np.float32)
    assert np.isfinite(mixture().velocity(x, 0.003)).all()


def test_the_noise_levels_are_those_of_the_shifted_scheduler() -> None:
    # FlowMatchEulerDiscreteScheduler(shift=3.0).set_timesteps(4): shift of an even grid from 1 to 3/1002
    smallest = 3 * 0.001 / (1 + 2 * 0.001)
    even = np.linspace(1.0, smallest, 4)
    expected = [*(3 * even / (1 + 2 * even)), 0.0]

    grid = sigma_grid(4)

    assert grid.dtype == np.float32
    np.testing.assert_allclose(grid, expected, rtol=1e-6)


def test_one_step_goes_from_noise_to_data_at_once() -> None:
    assert sigma_grid(1).tolist() == [1.0, 0.0]
