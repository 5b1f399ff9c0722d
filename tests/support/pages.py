"""What a page prints to be run: its fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "bench").glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n+)?(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n"
    r"(?P<text>.*?)^(?P=indent)(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")


class Command(NamedTuple):
    """text: as a shell takes it. output: what the page shows below it."""

    text: str
    output: str

    @property
    def words(self) -> list[str]:
        """Its first simple command, without what is set for it alone."""
        words = shlex.split(self.text.partition("\n")[0] if _HEREDOC.search(self.text) else self.text, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            del words[0]
        return words


class Block(NamedTuple):
    """A fenced block. line: of its first fence. note: the comment right above it, which the rendered page hides."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)} line {self.line}"

    def commands(self) -> Iterator[Command]:
        """Read the lines behind `$ `, each with those that continue it, and the output below."""
        lines = self.text.splitlines()
        while lines:
            text = lines.pop(0)
            assert text.startswith("$ "), f"{self.where}: {text!r} is no command, nor the output of one"
            text = text.removeprefix("$ ")
            while lines and not _is_whole(text):
                text += "\n" + lines.pop(0)
            output = []
            while lines and not lines[0].startswith("$ "):
                output.append(lines.pop(0))
            yield Command(text, "\n".join(output))


def blocks(page: Path) -> list[Block]:
    """Give the fenced blocks of a page; one without a language that begins with a prompt is a console's."""
    found = []
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        indent, language = match["indent"], match["language"].strip()
        inside = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        if not language and inside.startswith("$ "):
            language = "console"
        line = text.count("\n", 0, match.start("fence")) + 1
        found.append(Block(page, line, language, inside, match["note"] or ""))
    return found


def prose(page: Path) -> str:
    """Give a page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def _is_whole(text: str) -> bool:
    """Tell whether a shell would run this, rather than wait for more."""
    if heredoc := _HEREDOC.search(text):
        return text.count("\n") > 0 and text.splitlines()[-1].strip() == heredoc[2]
    if text.endswith("\\"):
        return False
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True
