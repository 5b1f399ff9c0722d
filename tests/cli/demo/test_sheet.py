"""Tests of the contact sheet."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from sglang_diffusion_routing.cli.demo import sheet
from sglang_diffusion_routing.cli.demo.rollout import Sample

pytestmark = pytest.mark.core

MakeSample = Callable[..., Sample]


def tinted(make_sample: MakeSample, colour: tuple[int, int, int], **fields: object) -> Sample:
    return make_sample(thumbnail=np.full((64, 64, 3), colour, dtype=np.uint8), **fields)


def test_each_prompt_has_its_samples_before_and_under_them_after(make_sample: MakeSample, tmp_path: Path) -> None:
    red, green, blue, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    before = [[tinted(make_sample, red), tinted(make_sample, green)]]
    after = [[tinted(make_sample, blue), tinted(make_sample, white)]]
    sheet.draw(before, after, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG"
        assert image.size == (2 * 24 + 128, 2 * 24 + 128 + 30)
        assert [image.getpixel(at) for at in ((30, 30), (100, 30), (30, 100), (100, 100))] == [red, green, blue, white]


def test_many_prompts_make_rows_and_columns(make_sample: MakeSample, tmp_path: Path) -> None:
    groups = [[make_sample(number=number) for number in range(4)] for _ in range(48)]
    sheet.draw(groups, groups, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width <= sheet.MAX_WIDTH_PX
        assert image.size == (2 * 24 + 6 * 272 - 16, 2 * 24 + 8 * 174 - 16)


def test_wide_groups_still_have_a_column(make_sample: MakeSample, tmp_path: Path) -> None:
    groups = [[make_sample(number=number) for number in range(64)] for _ in range(2)]
    sheet.draw(groups, groups, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width == 2 * 24 + 64 * 64


def test_endless_prompts_do_not_make_an_endless_sheet(make_sample: MakeSample, tmp_path: Path) -> None:
    groups = [[make_sample(), make_sample(number=1)] for _ in range(sheet.MAX_PROMPTS + 50)]
    sheet.draw(groups, groups, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        rows = -(-sheet.MAX_PROMPTS // 12)
        assert image.size == (2 * 24 + 12 * 144 - 16, 2 * 24 + rows * 174 - 16)


@pytest.mark.parametrize("text", ["a", "a fox " * 40, "x" * 300, "漢字 " * 60, "short " + "y" * 300])
def test_a_caption_has_at_most_two_lines_that_fit(text: str) -> None:
    font = ImageFont.load_default(sheet.FONT_PX)
    lines = sheet.wrapped(text, font, 256).split("\n")
    assert len(lines) <= 2
    assert all(font.getlength(line) <= 256 for line in lines)


@pytest.mark.parametrize(("text", "shown"), [("a café", "a cafe"), ("漢字", ""), ("漢 fox", "fox"), ("“Fin”", "Fin")])
def test_a_caption_is_made_of_what_the_font_has(text: str, shown: str) -> None:
    assert sheet.printable(text) == shown


def test_a_short_caption_is_left_alone() -> None:
    assert sheet.wrapped("a fox", ImageFont.load_default(sheet.FONT_PX), 256) == "a fox"


def test_a_long_caption_ends_with_an_ellipsis() -> None:
    assert sheet.wrapped("a fox " * 40, ImageFont.load_default(sheet.FONT_PX), 256).endswith(" ...")
