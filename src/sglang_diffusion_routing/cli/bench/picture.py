"""Paint a chart: as PNG, or as SVG that an HTML page can hold."""

from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sglang_diffusion_routing.cli.bench.gantt import Chart, Colour

SHARPNESS = 2
"""Pixels of the PNG for one of the chart's."""


def write_png(chart: Chart, path: Path) -> None:
    """Paint it into a file."""
    image = Image.new("RGB", (chart.width * SHARPNESS, chart.height * SHARPNESS), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for box in chart.boxes:
        x, y = box.x * SHARPNESS, box.y * SHARPNESS
        right, bottom = max(x + box.width * SHARPNESS - 1, x), max(y + box.height * SHARPNESS - 1, y)
        draw.rectangle((x, y, right, bottom), fill=box.colour)
    for label in chart.labels:
        font = ImageFont.load_default(size=label.size * SHARPNESS)
        draw.text((label.x * SHARPNESS, label.y * SHARPNESS), label.text, fill=label.colour, font=font)
    image.save(path, optimize=True)


def svg(chart: Chart) -> str:
    """Give it as an SVG element; all text is escaped."""
    boxes = "".join(
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        f'fill="{_hex(box.colour)}"/>'
        for box in chart.boxes
    )
    labels = "".join(
        f'<text x="{label.x:.1f}" y="{label.y + label.size:.1f}" font-size="{label.size}" fill="{_hex(label.colour)}">'
        f"{escape(label.text)}</text>"
        for label in chart.labels
    )
    return f'<svg viewBox="0 0 {chart.width} {chart.height}" role="img">{boxes}{labels}</svg>'


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
