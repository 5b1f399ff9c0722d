import io

import numpy as np
import pytest
from PIL import Image

from sglang_diffusion_routing.sim.pictures import encode, suffix_for

pytestmark = pytest.mark.core

COLOURS = np.linspace(0.0, 1.0, 3 * 16 * 24).reshape(3, 16, 24)


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_a_picture_is_a_file_of_its_kind_and_size(suffix: str, kind: str) -> None:
    image = Image.open(io.BytesIO(encode(COLOURS, suffix)))
    image.load()
    assert (image.format, image.size) == (kind, (24, 16))


def test_a_better_quality_takes_more_bytes() -> None:
    assert len(encode(COLOURS, "jpg", 10)) < len(encode(COLOURS, "jpg")) < len(encode(COLOURS, "jpg", 100))


@pytest.mark.parametrize(
    ("output_format", "background", "suffix"),
    [
        (None, None, "jpg"),
        ("JPEG", "transparent", "jpg"),
        ("PNG", "auto", "png"),
        (None, "transparent", "png"),
        ("bmp", "opaque", "jpg"),
    ],
)
def test_the_kind_is_that_of_the_request(output_format: str | None, background: str | None, suffix: str) -> None:
    assert suffix_for(output_format, background) == suffix
