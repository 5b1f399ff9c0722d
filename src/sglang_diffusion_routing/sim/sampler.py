"""A whole sampling run: from a seed through all denoising steps to latents, log-probabilities and colours."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sglang_diffusion_routing.sim import sde
from sglang_diffusion_routing.sim.decoder import Decoder
from sglang_diffusion_routing.sim.flow import TRAIN_STEPS, Floats, Mixture, sigma_grid
from sglang_diffusion_routing.sim.prompts import LatentShape, mixture_of
from sglang_diffusion_routing.sim.weights import Tensors

OnStep = Callable[[int], None]


class GenerationFailed(Exception):
    """The engine gave up on a generation; the message is the scheduler's."""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How a rollout steps and what it reports.

    sde_steps: indices of the random steps, all others are Euler steps; None for all. return_steps: indices of the
    latents in the trajectory, the final one has the index `steps`; None for all.
    """

    sde_type: sde.SdeType = "sde"
    noise_level: float = 0.7
    without_constants: bool = False
    debug: bool = True
    sde_steps: frozenset[int] | None = None
    trajectory: bool = False
    return_steps: frozenset[int] | None = None

    def type_at(self, step: int) -> sde.SdeType:
        """Say which transition a step takes."""
        return "ode" if self.sde_steps is not None and step not in self.sde_steps else self.sde_type

    def check(self) -> None:
        """Refuse what has no log-probability.

        Raises:
            GenerationFailed: in the words of SGLang's assertions.
        """
        if self.without_constants:
            return
        if self.sde_type == "ode":
            raise GenerationFailed(
                "p_ode is always 0, true log_prob is meaningless, "
                "set rollout_log_prob_no_const to True to enable log_prob computation"
            )
        if self.noise_level <= 0:
            raise GenerationFailed("True log-probability computation requires a non-zero noise level.")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to sample: seeds are the generators of the outputs, one each; `frames` is None for an image."""

    prompt: str
    seeds: tuple[int, ...]
    width: int
    height: int
    steps: int
    frames: int | None = None
    rollout: RolloutPlan | None = None

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6

    @property
    def latent_shape(self) -> LatentShape:
        frames = None if self.frames is None else (self.frames - 1) // 4 + 1
        return LatentShape(frames=frames, height=-(-self.height // 8), width=-(-self.width // 8))


@dataclass(slots=True)
class Sample:
    """One sample of a run.

    With T steps and a latent of shape L, latent: the final one, L. log_probs: [T]. noises, means, model_outputs:
    [T, *L]. stds: [T, 1]. trajectory: [up to T + 1, *L]. timesteps: as many as latents in the trajectory. sigmas:
    [T + 1]. All are float32; what was not asked for is None.
    """

    seed: int
    latent: Floats
    sigmas: Floats
    decoder: Decoder
    log_probs: Floats | None = None
    noises: Floats | None = None
    means: Floats | None = None
    stds: Floats | None = None
    model_outputs: Floats | None = None
    trajectory: Floats | None = None
    timesteps: Floats | None = None

    def colours(self) -> Floats:
        """Decode all of it: in 0..1, [3, height, width], or for a video [3, frames, height, width]."""
        if self.latent.ndim == 3:
            return self.decoder(self.latent)
        return np.stack([self.decoder(self.latent[:, index]) for index in self.frames()], axis=1)

    def frames(self) -> list[int]:
        """Give the latent frame of each frame: each after the first stands for four, as in Wan's VAE."""
        return [0, *(index for index in range(1, self.latent.shape[1]) for _ in range(4))]

    def pictures(self) -> list[Floats]:
        """Decode each latent frame once, an image's only one too: [3, height, width] each."""
        if self.latent.ndim == 3:
            return [self.decoder(self.latent)]
        return [self.decoder(self.latent[:, index]) for index in range(self.latent.shape[1])]


@dataclass(slots=True)
class _Run:
    """One sample in the making."""

    seed: int
    rng: np.random.Generator
    x: Floats
    log_probs: list[float] = field(default_factory=list)
    noises: list[Floats] = field(default_factory=list)
    means: list[Floats] = field(default_factory=list)
    stds: list[float] = field(default_factory=list)
    outputs: list[Floats] = field(default_factory=list)
    latents: list[Floats] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)


def sample(plan: Plan, transformer: Tensors, vae: Tensors, on_step: OnStep) -> list[Sample]:
    """Run all steps of all outputs together.

    Args:
        on_step: called after each step with the number of steps done.

    Raises:
        GenerationFailed: the rollout asked for a log-probability that does not exist.
    """
    if plan.rollout is not None:
        plan.rollout.check()
    mixture = mixture_of(plan.prompt, transformer, plan.latent_shape)
    sigmas = sigma_grid(plan.steps)
    runs = [_start(seed, mixture.means.shape[1]) for seed in plan.seeds]
    for step in range(plan.steps):
        for run in runs:
            _advance(run, mixture, sigmas, step, plan.rollout)
        on_step(step + 1)
    for run in runs:
        _record(run, plan.rollout, plan.steps, 0.0)
    decoder = Decoder(vae, width=plan.width, height=plan.height)
    return [_finish(run, plan, sigmas, decoder) for run in runs]


def _start(seed: int, size: int) -> _Run:
    rng = np.random.default_rng(seed % 2**64)
    return _Run(seed=seed, rng=rng, x=rng.standard_normal(size, dtype=np.float32))


def _advance(run: _Run, mixture: Mixture, sigmas: Floats, step: int, rollout: RolloutPlan | None) -> None:
    sigma, sigma_next = float(sigmas[step]), float(sigmas[step + 1])
    velocity = mixture.velocity(run.x, sigma)
    if rollout is None:
        run.x = sde.ode_step(run.x, velocity, sigma, sigma_next).mean
        return
    _record(run, rollout, step, sigma * TRAIN_STEPS)
    kind = rollout.type_at(step)
    if kind == "sde":
        move = sde.sde_step(
            run.x,
            velocity,
            sigma,
            sigma_next,
            sigma_max=float(sigmas[min(1, len(sigmas) - 1)]),
            eta=rollout.noise_level,
        )
    elif kind == "cps":
        move = sde.cps_step(run.x, velocity, sigma, sigma_next, eta=rollout.noise_level)
    else:
        move = sde.ode_step(run.x, velocity, sigma, sigma_next)
    noise = np.zeros_like(run.x) if kind == "ode" else run.rng.standard_normal(run.x.size, dtype=np.float32)
    # an Euler step counts as 0 among random ones, as SGLang sums it
    run.log_probs.append(
        0.0 if kind == "ode" else sde.log_prob(noise, move.std, without_constants=rollout.without_constants)
    )
    if rollout.debug:
        run.noises.append(noise)
        run.means.append(move.mean)
        run.stds.append(move.std)
        run.outputs.append(velocity)
    run.x = move.mean + np.float32(move.std) * noise


def _record(run: _Run, rollout: RolloutPlan | None, index: int, timestep: float) -> None:
    if rollout is None or not rollout.trajectory:
        return
    if rollout.return_steps is None or index in rollout.return_steps:
        run.latents.append(run.x)
        run.timesteps.append(timestep)


def _finish(run: _Run, plan: Plan, sigmas: Floats, decoder: Decoder) -> Sample:
    dims = plan.latent_shape.dims
    result = Sample(seed=run.seed, latent=run.x.reshape(dims), sigmas=sigmas, decoder=decoder)
    if plan.rollout is None:
        return result
    result.log_probs = np.asarray(run.log_probs, dtype=np.float32)
    if plan.rollout.debug:
        result.noises = _stacked(run.noises, dims)
        result.means = _stacked(run.means, dims)
        result.model_outputs = _stacked(run.outputs, dims)
        result.stds = np.asarray(run.stds, dtype=np.float32).reshape(-1, 1)
    if run.latents:
        result.trajectory = _stacked(run.latents, dims)
        result.timesteps = np.asarray(run.timesteps, dtype=np.float32)
    return result


def _stacked(parts: list[Floats], dims: tuple[int, ...]) -> Floats:
    return np.stack(parts).reshape((len(parts), *dims))
