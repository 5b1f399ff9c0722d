"""Tests of what every backend says when a worker could not be started."""

import pytest

from sglang_diffusion_routing.launchers.base import Ended, LaunchFailed

pytestmark = pytest.mark.core


def test_a_failed_start_has_a_reason_and_the_last_lines_of_the_log() -> None:
    failure = LaunchFailed("found no GPU", ("loading", "no CUDA-capable device"))
    assert str(failure) == "found no GPU"
    assert failure.ended == Ended("found no GPU", ("loading", "no CUDA-capable device"))
