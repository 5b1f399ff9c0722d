"""Show a benchmark to whoever watches: lines, tables and progress bars."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

WIDTH = 160
"""Columns that a table may take."""


class Report:
    """Writes to a console; with `--json` that is standard error, and the JSON is alone on standard output."""

    def __init__(self, *, as_json: bool) -> None:
        self._console = Console(stderr=as_json, highlight=False)

    def line(self, text: str) -> None:
        """Say a sentence."""
        self._console.print(Text(text), soft_wrap=True)

    def table(self, title: str, rows: Sequence[Sequence[str]]) -> None:
        """Show a table whose first row is its head; its first column is text, the others are numbers."""
        head, *body = rows
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, name in enumerate(head):
            table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
        for row in body:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(Text(title), soft_wrap=True)
        # A console as wide as the table: a narrow terminal then breaks its lines rather than hide a number.
        terminal = self._console.is_terminal
        Console(file=self._console.file, width=WIDTH, force_terminal=terminal, highlight=False).print(table)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar on a terminal, nothing elsewhere; what is given moves it on by one."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        shown = self._console.is_terminal
        with Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True, disable=not shown) as bar:
            task = bar.add_task(label, total=total)
            yield lambda: bar.advance(task)
