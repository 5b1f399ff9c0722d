"""Tests of when there is a gallery of images."""

import subprocess
import sys

import pytest

from sglang_diffusion_routing.app.pictures import gallery
from sglang_diffusion_routing.settings import Settings
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core

PROGRAM = "import sys, sglang_diffusion_routing.app.wiring; print([name for name in sys.modules if name == 'PIL'])"


async def test_there_is_a_gallery_only_where_one_is_asked_for() -> None:
    fleet = RecordingFleet()
    assert gallery(Settings(), fleet) is None
    made = gallery(Settings(thumbnails=2), fleet)
    assert made is not None
    assert made._kept.maxlen == 2
    await made.aclose()


def test_without_one_nothing_that_reads_images_is_loaded() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "[]\n"
