"""Draw the contact sheet: for each prompt its samples before the refit and, under them, after it."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sglang_diffusion_routing.cli.demo.rollout import THUMBNAIL_PX, Pixels, Sample

GAP_PX = 16
CAPTION_PX = 30
MARGIN_PX = 24
FONT_PX = 11
MAX_WIDTH_PX = 1_900
MAX_PROMPTS = 200
"""More make a picture that nobody opens."""
BACKGROUND, INK = (250, 250, 248), (60, 60, 64)


def draw(before: Sequence[Sequence[Sample]], after: Sequence[Sequence[Sample]], path: Path) -> None:
    """Write the sheet as a PNG file.

    Args:
        before: for each prompt its samples of the first rollout. after: likewise of the second.
    """
    pairs = list(zip(before, after, strict=True))[:MAX_PROMPTS]
    cell_width = len(pairs[0][0]) * THUMBNAIL_PX
    cell_height = 2 * THUMBNAIL_PX + CAPTION_PX
    columns = max(1, min(len(pairs), (MAX_WIDTH_PX - 2 * MARGIN_PX + GAP_PX) // (cell_width + GAP_PX)))
    rows = -(-len(pairs) // columns)
    size = (
        2 * MARGIN_PX + columns * (cell_width + GAP_PX) - GAP_PX,
        2 * MARGIN_PX + rows * (cell_height + GAP_PX) - GAP_PX,
    )
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_PX)
    for place, (old, new) in enumerate(pairs):
        row, column = divmod(place, columns)
        left = MARGIN_PX + column * (cell_width + GAP_PX)
        top = MARGIN_PX + row * (cell_height + GAP_PX)
        sheet.paste(Image.fromarray(_strip(old)), (left, top))
        sheet.paste(Image.fromarray(_strip(new)), (left, top + THUMBNAIL_PX))
        caption = wrapped(printable(old[0].text) or f"prompt {place + 1}", font, cell_width)
        pen.multiline_text((left, top + 2 * THUMBNAIL_PX + 3), caption, fill=INK, font=font, spacing=2)
    sheet.save(path, optimize=True)


def _strip(samples: Sequence[Sample]) -> Pixels:
    return np.concatenate([sample.thumbnail for sample in samples], axis=1)


def printable(text: str) -> str:
    """Give a caption in the characters that Pillow's own font has: ASCII; accents are dropped, "é" becomes "e"."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").strip()


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    """Break a caption into at most two lines that fit; what does not fit becomes an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px:
            lines[-1] = longer
        elif len(lines) == 1:
            lines.append(word)
        else:
            lines[-1] += " ..."
            break
    return "\n".join(_cut(line, font, width_px) for line in lines)


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    """Shorten a line that is still too long, keeping its beginning."""
    if font.getlength(line) <= width_px:
        return line
    kept = line.removesuffix(" ...")
    while kept and font.getlength(f"{kept} ...") > width_px:
        kept = kept[:-1]
    return f"{kept} ...".strip()
