import numpy as np
import pytest

from sglang_diffusion_routing.sim.decoder import Decoder
from sglang_diffusion_routing.sim.weights import seeded_module

pytestmark = pytest.mark.core

VAE = seeded_module("test", "vae")
LATENT = np.random.default_rng(0).standard_normal((16, 4, 5), dtype=np.float32)


def test_colours_are_pixels_between_black_and_white() -> None:
    colours = Decoder(VAE, width=37, height=30)(LATENT)
    assert (colours.shape, colours.dtype) == ((3, 30, 37), np.float32)
    assert 0.0 <= colours.min() < colours.max() <= 1.0


def test_an_even_latent_gives_an_even_picture() -> None:
    colours = Decoder(VAE, width=40, height=32)(np.full((16, 4, 5), 0.3, dtype=np.float32))
    assert np.ptp(colours.reshape(3, -1), axis=1).max() < 1e-6


def test_between_the_centres_of_cells_colours_change_gradually() -> None:
    latent = np.zeros((16, 1, 2), dtype=np.float32)
    latent[:, :, 1] = 1.0
    row = Decoder(VAE, width=16, height=8)(latent)[0, 0]
    steps = np.diff(row)
    assert np.all(steps[:3] == 0)
    assert np.all(steps[-3:] == 0)
    assert np.all(np.sign(steps[4:11]) == np.sign(steps[4]))
    assert steps[4] != 0


def test_other_weights_shade_otherwise() -> None:
    other = Decoder(seeded_module("other", "vae"), width=40, height=32)
    assert not np.allclose(Decoder(VAE, width=40, height=32)(LATENT), other(LATENT), atol=1e-3)
