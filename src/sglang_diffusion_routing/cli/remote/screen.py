"""Where a command shows what it has learned: for people, or as one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

_GAP = 2
"""Blanks between two columns."""


class Screen:
    """Standard output. With `as_json` nothing but that one document is written there."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stream = sys.stdout if stream is None else stream
        self.console = Console(file=self._stream, highlight=False, soft_wrap=False)

    def document(self, value: Any) -> None:
        """Give what the router said, as it said it."""
        self._stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def line(self, text: str, style: str = "") -> None:
        """Say a sentence. What comes from a router or a worker is text, never markup."""
        self.console.print(Text(printable(text), style=style), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Show rows under their columns; what is None stays empty, numbers stand to the right.

        On a terminal that is too narrow for the longest the last column's cells, which are sentences, stand below their
        rows; on one that is too narrow for that as well each row is some lines of its own. What is no terminal, a pipe,
        gets one line a row, however long.
        """
        values = [list(row) for row in rows]
        cells = [[printable(_shown(value)).replace("\n", " ") for value in row] for row in values]
        widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
        room = self.console.width if self.console.is_terminal else inf
        fitting = (count for count in (len(columns), len(columns) - 1) if count and _width(widths[:count]) <= room)
        count = next(fitting, 0)
        if not count:
            self._records(columns, cells)
            return
        layout = [
            (width, bool(values) and all(isinstance(row[at], int | float | None) for row in values))
            for at, width in enumerate(widths[:count])
        ]
        self._row(columns, layout, "bold")
        for row in cells:
            self._row(row, layout)
            self._below(row[count:])

    def _row(self, cells: Sequence[str], layout: Iterable[tuple[int, bool]], style: str = "") -> None:
        """Show the first cells of a row, so wide and to the right or not."""
        padded = (_padded(cell, *place) for cell, place in zip(cells, layout, strict=False))
        self.console.print(Text((" " * _GAP).join(padded).rstrip(), style=style), soft_wrap=True)

    def _below(self, sentences: Iterable[str]) -> None:
        for text in filter(None, sentences):
            self.console.print(Padding(Text(text), (0, 0, 0, 4)))

    def _records(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Show each row as what it is about, its words and figures, and its sentences, below each other."""
        for row in rows:
            self.console.print(Text(row[0], style="bold"), soft_wrap=True)
            named = [(column, cell) for column, cell in zip(columns[1:], row[1:], strict=True) if cell]
            short = [f"{column} {cell}" for column, cell in named if " " not in cell]
            self._below([", ".join(short), *(cell for _, cell in named if " " in cell)])


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _padded(cell: str, width: int, is_number: bool) -> str:
    blanks = " " * (width - cell_len(cell))
    return blanks + cell if is_number else cell + blanks


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def printable(text: str) -> str:
    """Take out what would move the cursor or change the terminal: names and reasons come from elsewhere."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
