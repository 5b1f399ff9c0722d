"""Tests of painting a chart."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from sglang_diffusion_routing.cli.bench.gantt import Box, Chart, Label
from sglang_diffusion_routing.cli.bench.picture import svg, write_png

pytestmark = pytest.mark.core

CHART = Chart(40, 30, (Box(10, 5, 20, 10, (255, 0, 0)),), (Label(0, 20, "<i> & co", (0, 0, 0), 8),))


def test_the_png_shows_boxes_where_they_are(tmp_path: Path) -> None:
    write_png(CHART, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.size == (80, 60)
        assert [image.getpixel(at) for at in ((20, 10), (59, 29), (19, 10), (60, 29))] == [
            (255, 0, 0),
            (255, 0, 0),
            (255, 255, 255),
            (255, 255, 255),
        ]
        assert image.crop((0, 40, 80, 60)).getextrema() != ((255, 255),) * 3, "the label is missing"


def test_the_svg_is_well_formed_and_its_text_escaped() -> None:
    root = ET.fromstring(svg(CHART))
    assert root.attrib["viewBox"] == "0 0 40 30"
    assert [(child.tag, child.attrib.get("fill"), child.text) for child in root] == [
        ("rect", "#ff0000", None),
        ("text", "#000000", "<i> & co"),
    ]
