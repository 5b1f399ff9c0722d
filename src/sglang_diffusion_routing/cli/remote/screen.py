"""Where a command shows what it has learned: for people, or as one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
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

        A terminal that is too narrow for the longest gets each row as some lines of its own. What is no terminal, a
        pipe, gets one line a row, however long.
        """
        values = [list(row) for row in rows]
        cells = [[printable(_shown(value)) for value in row] for row in values]
        width = sum(max(map(cell_len, column)) + _GAP for column in zip(columns, *cells, strict=True))
        if self.console.is_terminal and width - _GAP > self.console.width:
            self._records(columns, cells)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            is_number = bool(values) and all(isinstance(row[index], int | float | None) for row in values)
            table.add_column(column, justify="right" if is_number else "left", no_wrap=True)
        for row in cells:
            table.add_row(*map(Text, row))
        if self.console.is_terminal:
            self.console.print(table)
        else:
            Console(file=self._stream, width=max(width, self.console.width), highlight=False).print(table)

    def _records(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Show each row as what it is about, its words and figures, and its sentences, below each other."""
        for row in rows:
            self.console.print(Text(row[0], style="bold"), soft_wrap=True)
            named = [(column, cell) for column, cell in zip(columns[1:], row[1:], strict=True) if cell]
            short = [f"{column} {cell}" for column, cell in named if " " not in cell]
            for text in (", ".join(short), *(cell for _, cell in named if " " in cell)):
                if text:
                    self.console.print(Padding(Text(text), (0, 0, 0, 4)))


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def printable(text: str) -> str:
    """Take out what would move the cursor or change the terminal: names and reasons come from elsewhere."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
