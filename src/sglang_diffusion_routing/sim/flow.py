"""The exact velocity field of a Gaussian mixture under flow matching.

With x_t = (1 - t) x_0 + t e, where x_0 is drawn from a mixture of Gaussians N(mean_k, scale^2 I) and e from N(0, I),
x_t is again a mixture, N((1 - t) mean_k, var I) with var = (1 - t)^2 scale^2 + t^2, and the marginal velocity
v(x, t) = E[e - x_0 | x_t = x] (Lipman et al. 2023, "Flow Matching for Generative Modeling", arXiv:2210.02747,
theorem 1) has a closed form: within one component both expectations are linear in x, and the components are weighted by
the probability that x came from them. So a sampler that follows this field draws from the mixture, without a network.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SHIFT = 3.0  # of Stable Diffusion 3's scheduler, as SGLang's FlowMatchEulerDiscreteScheduler reads it
TRAIN_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Mixture:
    """Equally likely Gaussians with one common scale.

    means: float32, [components, size]: each a flattened latent. scale: their standard deviation.
    """

    means: Floats
    scale: float

    def velocity(self, x: Floats, t: float) -> Floats:
        """Give v(x, t) for one flattened latent.

        With a = (t - (1 - t) scale^2) / var, component k's velocity is a (x - (1 - t) mean_k) - mean_k; as `a` is the
        same for all, the mixture's is that of the means' average under the posterior.

        Args:
            x: float32, [size].
            t: share of noise, 0 < t <= 1.
        """
        keep = 1.0 - t
        variance = keep * keep * self.scale * self.scale + t * t
        mean = self._posterior(x, keep, variance) @ self.means
        pull = (t - keep * self.scale * self.scale) / variance
        return np.asarray(np.float32(pull) * x - np.float32(pull * keep + 1.0) * mean, dtype=np.float32)

    def _posterior(self, x: Floats, keep: float, variance: float) -> Floats:
        """Give the probability of each component at x; the terms that all share are left out of the exponents."""
        products = np.einsum("kd,d->k", self.means, x, dtype=np.float64)
        squares = np.einsum("kd,kd->k", self.means, self.means, dtype=np.float64)
        exponents = (keep * products - 0.5 * keep * keep * squares) / variance
        weights = np.exp(exponents - exponents.max())
        return np.asarray(weights / weights.sum(), dtype=np.float32)


def sigma_grid(steps: int) -> Floats:
    """Give the noise levels of a sampling run: float32, [steps + 1], from 1 down to 0.

    The grid of SGLang's FlowMatchEulerDiscreteScheduler (models/schedulers/scheduling_flow_match_euler_discrete.py):
    evenly spaced between the largest and the smallest training level, shifted by s -> 3 s / (1 + 2 s), then a zero.
    The smallest training level is itself a shifted one.
    """
    smallest = _shifted(np.float64(1.0 / TRAIN_STEPS))
    levels = np.linspace(1.0, smallest, steps)
    return np.append(_shifted(levels), 0.0).astype(np.float32)


def _shifted(sigma: np.float64 | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(SHIFT * sigma / (1.0 + (SHIFT - 1.0) * sigma))
