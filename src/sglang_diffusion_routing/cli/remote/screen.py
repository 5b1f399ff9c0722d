"""Where a command shows what it has learned: for people, or as one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text


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
        """Show rows under their columns; what is None stays empty, numbers stand to the right."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        shown = [list(row) for row in rows]
        for index, column in enumerate(columns):
            is_number = bool(shown) and all(isinstance(row[index], int | float | None) for row in shown)
            table.add_column(column, justify="right" if is_number else "left", overflow="fold")
        for row in shown:
            table.add_row(*(Text(printable(_shown(value))) for value in row))
        self.console.print(table)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def printable(text: str) -> str:
    """Take out what would move the cursor or change the terminal: names and reasons come from elsewhere."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
