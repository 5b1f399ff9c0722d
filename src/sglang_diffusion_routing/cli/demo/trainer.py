"""The trainer of the demo: a reward, and one step of policy gradient on the weights.

The reward is warmth: how much redder than blue an image is. The step is the score-function gradient of Flow-GRPO
(https://arxiv.org/abs/2505.05470) with the final latent in place of the whole path: samples that beat the mean of
their prompt pull the model's own field towards them. It is small, but it is real: the second rollout is warmer.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sglang_diffusion_routing.sim.weights import WAVES, load_modules, module_checksum, write_checkpoint, write_module

Floats = NDArray[np.float32]

MODULE = "transformer"
FIELD = "style.weight"
STEP_SIZE = 0.1
"""Root mean square of one change of the field; the field itself is standard normal."""


def warmth(colours: Floats) -> float:
    """Give the reward of an image in colours, [3, height, width]: mean red minus mean blue, in -1..1."""
    return float(colours[0].mean() - colours[2].mean())


def advantages(rewards: Sequence[float]) -> Floats:
    """Compare samples of one prompt with each other: zero mean, unit deviation."""
    values = np.asarray(rewards, dtype=np.float32)
    return np.asarray((values - values.mean()) / (values.std() + 1e-6), dtype=np.float32)


def gradient(groups: Sequence[tuple[Sequence[float], Sequence[Floats]]]) -> Floats:
    """Give the direction in which the field raises the reward, of mean square 1: [channels, waves, waves].

    Args:
        groups: for each prompt the rewards of its samples and their final latents.
    """
    total = 0.0
    for rewards, latents in groups:
        stacked = np.stack(latents)
        rows, columns = _waves(stacked.shape[2]), _waves(stacked.shape[3])
        total = total + np.einsum("s,scyx,iy,jx->cij", advantages(rewards), stacked, rows, columns, optimize=True)
    size = np.sqrt(np.mean(np.square(total)))
    return np.asarray(total / size if size > 0 else total, dtype=np.float32)


def _waves(length: int) -> Floats:
    """Give the cosine waves that the field is made of along one side, each of mean square 1: [waves, length]."""
    angles = np.pi * np.outer(np.arange(WAVES), (np.arange(length) + 0.5) / length)
    waves = np.cos(angles)
    return np.asarray(waves / np.sqrt(np.mean(np.square(waves), axis=1, keepdims=True)), dtype=np.float32)


def train(folder: Path, base: Path, direction: Floats) -> str:
    """Write a checkpoint one step from the weights at `base`, and give the checksum of its transformer."""
    write_checkpoint(folder, seed=0)
    weights = dict(load_modules(str(base), [MODULE])[MODULE])
    weights[FIELD] = np.asarray(weights[FIELD] + np.float32(STEP_SIZE) * direction, dtype=np.float32)
    write_module(folder, MODULE, weights)
    return module_checksum(weights)
