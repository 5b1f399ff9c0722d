"""Tests of the pictures of the dashboard, as the site shows them."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from support.browser import CHROMIUM

TOOL = Path(__file__).resolve().parents[2] / "tools" / "screenshots.py"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.e2e
def test_it_says_how_it_is_called() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")


@pytest.mark.e2e
@pytest.mark.timeout(240)
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: chromium)")
def test_pictures_are_taken(tmp_path: Path) -> None:
    done = run(str(tmp_path / "pictures"))
    assert (done.returncode, done.stderr) == (0, "")
    found = {}
    for path in (tmp_path / "pictures").iterdir():
        with Image.open(path) as picture:
            # Text alone has a few dozen colours; a timeline and images have more.
            found[path.name] = (picture.size, len(set(picture.convert("RGB").get_flattened_data())) > 100)
    assert found == {
        "dashboard-light.png": ((1280, 900), True),
        "dashboard-dark.png": ((1280, 900), True),
        "dashboard-narrow.png": ((360, 800), True),
        "dashboard-many.png": ((1280, 1000), True),
    }
