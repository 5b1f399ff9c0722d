"""Samples made up for tests of the demo."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sglang_diffusion_routing.cli.demo.rollout import STEPS, Sample

MakeSample = Callable[..., Sample]


@pytest.fixture
def make_sample() -> MakeSample:
    """Give a maker of samples; its keywords replace fields."""
    sample = Sample(
        prompt=0,
        number=0,
        seed=7,
        text="a fox",
        worker="http://a:1",
        version="0",
        weights="c0ffee",
        queue_ms=1.5,
        seconds=0.5,
        reward=0.25,
        log_probs=np.full(STEPS, -1.0, dtype=np.float32),
        latent=np.zeros((16, 8, 8), dtype=np.float32),
        thumbnail=np.zeros((64, 64, 3), dtype=np.uint8),
    )
    return lambda **changes: replace(sample, **changes)
