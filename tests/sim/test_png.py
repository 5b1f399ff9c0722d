import io

import numpy as np
import pytest
from PIL import Image

from sglang_diffusion_routing.sim import png

pytestmark = pytest.mark.core


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 7), (64, 48)])
def test_pillow_reads_the_same_pixels(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.open(io.BytesIO(png.encode(pixels)))
    image.load()
    assert (image.format, image.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_colours_become_the_nearest_of_256_steps() -> None:
    colours = np.array([0.0, 0.5, 1.0], dtype=np.float32).reshape(3, 1, 1)
    assert png.to_pixels(colours).tolist() == [[[0, 128, 255]]]
