"""Write the result of `bench policies` as one HTML page that asks nobody for anything."""

from collections.abc import Sequence
from html import escape

from sglang_diffusion_routing.cli.bench.gantt import Chart
from sglang_diffusion_routing.cli.bench.picture import svg

STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; color: #232832; max-width: 1240px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .25em .9em; text-align: right }
th:first-child, td:first-child { text-align: left } tr + tr { border-top: 1px solid #e3e6ea }
svg { width: 100%; height: auto; font-family: system-ui, sans-serif } p { max-width: 60em }
"""


def page(title: str, notes: Sequence[str], sections: Sequence[tuple[str, str, Sequence[Sequence[str]], Chart]]) -> str:
    """Give the page.

    Args:
        notes: paragraphs under the title.
        sections: each has a heading, a note, a table whose first row is its head, and a chart.
    """
    parts = "".join(
        f"<h2>{escape(heading)}</h2><p>{escape(note)}</p>{_table(rows)}{svg(chart)}"
        for heading, note, rows, chart in sections
    )
    paragraphs = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        # The browser itself sees to it that nothing is fetched, should a name ever get past the escaping.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{paragraphs}{parts}</body></html>\n"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table><tr>{cells}</tr>{lines}</table>"
