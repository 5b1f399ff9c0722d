"""Tests of the HTML page."""

import re

import pytest

from sglang_diffusion_routing.cli.bench.gantt import Box, Chart, Label
from sglang_diffusion_routing.cli.bench.page import page

pytestmark = pytest.mark.core

EVIL = '<script src="//evil.example/x.js"></script>'


def made() -> str:
    chart = Chart(10, 10, (Box(0, 0, 1, 1, (0, 0, 0)),), (Label(0, 0, EVIL, (0, 0, 0)),))
    return page(EVIL, [EVIL], [(EVIL, EVIL, [("policy", EVIL), (EVIL, "1.0")], chart)])


def test_every_name_is_escaped() -> None:
    text = made()
    assert "<script" not in text
    assert text.count("&lt;script src=&quot;//evil.example/x.js&quot;&gt;&lt;/script&gt;") == 8


def test_nothing_is_fetched() -> None:
    text = made()
    tags = re.findall(r"<[^>]*>", text)
    assert not [tag for tag in tags if re.search(r"\b(src|href|action)\s*=|url\(", tag)]
    assert "default-src 'none'" in text


def test_a_table_has_its_head_and_its_rows() -> None:
    assert "<tr><th>policy</th><th>" in made()
    assert "<td>1.0</td></tr></table><svg" in made()
