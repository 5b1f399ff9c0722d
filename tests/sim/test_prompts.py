import numpy as np
import pytest

from sglang_diffusion_routing.sim.prompts import LatentShape, embeddings_of, mixture_of
from sglang_diffusion_routing.sim.weights import seeded_module

pytestmark = pytest.mark.core

TRANSFORMER = seeded_module("test", "transformer")
IMAGE = LatentShape(frames=None, height=8, width=12)


def test_a_latent_has_sixteen_channels_and_frames_only_in_a_video() -> None:
    assert IMAGE.dims == (16, 8, 12)
    assert LatentShape(frames=2, height=8, width=12).dims == (16, 2, 8, 12)


def test_a_prompt_always_means_the_same() -> None:
    first, second = mixture_of("a cat", TRANSFORMER, IMAGE), mixture_of("a cat", TRANSFORMER, IMAGE)
    np.testing.assert_array_equal(first.means, second.means)
    assert first.means.shape == (3, 16 * 8 * 12)


def test_another_prompt_means_something_else() -> None:
    assert not np.allclose(mixture_of("a cat", TRANSFORMER, IMAGE).means, mixture_of("a dog", TRANSFORMER, IMAGE).means)


@pytest.mark.parametrize("tensor", ["style.weight", "style.gain"])
def test_every_tensor_of_the_transformer_matters(tensor: str) -> None:
    changed = {**TRANSFORMER, tensor: TRANSFORMER[tensor] + np.float32(0.5)}
    assert not np.allclose(mixture_of("a cat", TRANSFORMER, IMAGE).means, mixture_of("a cat", changed, IMAGE).means)


def test_the_fields_are_smooth() -> None:
    means = mixture_of("a cat", TRANSFORMER, LatentShape(frames=None, height=64, width=64)).means
    fields = means.reshape(3, 16, 64, 64)
    assert np.abs(np.diff(fields, axis=-1)).max() < 0.2 * np.ptp(fields)


def test_a_video_moves() -> None:
    fields = mixture_of("a cat", TRANSFORMER, LatentShape(frames=3, height=8, width=8)).means.reshape(3, 16, 3, 8, 8)
    assert not np.allclose(fields[:, :, 0], fields[:, :, 2])


def test_embeddings_have_the_shapes_and_types_of_a_small_sd3() -> None:
    embeddings = embeddings_of("a cat")
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in embeddings.items()} == {
        "pooled_projections": ((1, 64), "float16"),
        "encoder_hidden_states": ((1, 333, 64), "float32"),
    }
