"""One denoising step, deterministic or random, and the log-density of a random one.

The three transitions that SGLang's rollout knows (post_training/flow_rollout_controller.py, `flow_sde_sampling`):

- ode: the Euler step x + (s' - s) v.
- sde: the Euler-Maruyama step of the reverse SDE of Flow-GRPO (Liu et al. 2025, arXiv:2505.05470, eq. 9; the code is
  `sde_step_with_logprob` of yifan123/flow_grpo): diffusion g = eta sqrt(s / (1 - s)).
- cps: coefficients-preserving sampling (Wang and Yu 2025, arXiv:2509.05952): part of the noise that the next level
  needs is the estimated one, the rest is new, so that the coefficients of data and noise stay (1 - s') and s'.

Here s is the noise level before the step, s' the one after it (s' < s), v the velocity, eta the request's
`rollout_noise_level`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sglang_diffusion_routing.sim.flow import Floats

SdeType = Literal["sde", "cps", "ode"]
SDE_TYPES: tuple[SdeType, ...] = ("sde", "cps", "ode")


@dataclass(frozen=True, slots=True)
class Transition:
    """Where a step goes: N(mean, std^2 I) of the latent's shape; std 0 is a deterministic step."""

    mean: Floats
    std: float


def ode_step(x: Floats, velocity: Floats, sigma: float, sigma_next: float) -> Transition:
    """Follow the velocity for one Euler step."""
    return Transition(mean=x + np.float32(sigma_next - sigma) * velocity, std=0.0)


def sde_step(
    x: Floats, velocity: Floats, sigma: float, sigma_next: float, *, sigma_max: float, eta: float
) -> Transition:
    """Take the SDE step of Flow-GRPO.

    Args:
        sigma_max: stands in for a `sigma` of 1 in the diffusion, which would divide by zero: the run's second level.
    """
    dt = sigma_next - sigma
    below_one = sigma_max if math.isclose(sigma, 1.0) else sigma
    diffusion = eta * math.sqrt(sigma / (1.0 - below_one))
    drift = diffusion * diffusion / (2.0 * sigma)
    mean = np.float32(1.0 + drift * dt) * x + np.float32((1.0 + drift * (1.0 - sigma)) * dt) * velocity
    return Transition(mean=mean.astype(np.float32), std=diffusion * math.sqrt(-dt))


def cps_step(x: Floats, velocity: Floats, sigma: float, sigma_next: float, *, eta: float) -> Transition:
    """Take the coefficients-preserving step; the last one, to level 0, has no randomness left."""
    std = sigma_next * math.sin(eta * math.pi / 2.0)
    clean = x - np.float32(sigma) * velocity
    noise = x + np.float32(1.0 - sigma) * velocity
    kept = math.sqrt(max(sigma_next * sigma_next - std * std, 0.0))
    mean = np.float32(1.0 - sigma_next) * clean + np.float32(kept) * noise
    return Transition(mean=mean.astype(np.float32), std=std)


def log_prob(noise: Floats, std: float, *, without_constants: bool) -> float:
    """Give the log-density of a step to mean + std * noise, averaged over the latent's elements as in Flow-GRPO.

    `without_constants` gives -(std * noise)^2 instead, which SGLang calls `rollout_log_prob_no_const`. The density of a
    step with std 0 does not exist: NaN, as a real worker reports for the last CPS step.
    """
    square = float(np.mean(np.square(noise, dtype=np.float64)))
    if without_constants:
        return -square * std * std
    if std == 0.0:
        return math.nan
    return -0.5 * square - math.log(std) - 0.5 * math.log(2.0 * math.pi)
