"""From a latent to colours."""

import numpy as np

from sglang_diffusion_routing.sim.flow import Floats
from sglang_diffusion_routing.sim.weights import CHANNELS, Tensors

CONTRAST = 1.5
PIXELS = 8  # to a latent cell, along each side


class Decoder:
    """The simulated VAE: mixes channels linearly, enlarges with linear interpolation, and squashes into 0..1.

    Args:
        vae: the module's weights; they shade the mixing.
        width: of the picture in pixels, as `height`.
    """

    def __init__(self, vae: Tensors, *, width: int, height: int) -> None:
        base = np.random.default_rng(0).standard_normal((3, CHANNELS))
        self._mixing = ((base + 0.1 * vae["decoder.weight"]) / np.sqrt(CHANNELS)).astype(np.float32)
        self._bias = (0.1 * vae["decoder.bias"]).astype(np.float32)[:, None, None]
        self._width, self._height = width, height

    def __call__(self, latent: Floats) -> Floats:
        """Decode one frame, [channels, rows, columns], to colours: [3, height, width]."""
        small = np.einsum("cl,lyx->cyx", self._mixing, latent) + self._bias
        rows = _interpolation(latent.shape[1], self._height)
        columns = _interpolation(latent.shape[2], self._width)
        large = np.asarray(rows @ small @ columns.T, dtype=np.float32)
        large *= -CONTRAST  # in place: a full video frame is some megabytes
        np.exp(large, out=large)
        large += 1.0
        return np.reciprocal(large, out=large)


def _interpolation(size: int, target: int) -> Floats:
    """Give the matrix that enlarges one side linearly: [target, size]."""
    centres = np.clip((np.arange(target) + 0.5) / PIXELS - 0.5, 0.0, size - 1.0)
    below = np.minimum(centres.astype(int), max(size - 2, 0))
    share = centres - below
    matrix = np.zeros((target, size), dtype=np.float32)
    index = np.arange(target)
    matrix[index, below] = 1.0 - share
    matrix[index, np.minimum(below + 1, size - 1)] += share
    return matrix
