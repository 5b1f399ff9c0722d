"""Parse arguments so that each bad one gets one sentence that names it."""

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from sglang_diffusion_routing.errors import BadSetting

PROGRAM = "sglang-d-router"


class ActionParser(argparse.ArgumentParser):
    """An argument parser that raises `BadSetting`; by itself, that of an action within a command."""

    def error(self, message: str) -> NoReturn:
        """Turn argparse's "argument --port: expected one argument" into the error that every bad setting raises."""
        command = self.prog.removeprefix(PROGRAM).strip()
        if missing := re.fullmatch("the following arguments are required: (.+)", message):
            raise BadSetting(command, f"needs {missing[1]}{self._choices_of(missing[1])}")
        if missing := re.fullmatch("one of the arguments (.+) is required", message):
            raise BadSetting(command, f"needs one of {', '.join(missing[1].split())}")
        where, colon, why = message.removeprefix("argument ").partition(": ")
        if wrong := re.fullmatch(r"invalid choice: '(.*)' \(choose from (.+)\)", why):
            choices = [choice.strip("'") for choice in wrong[2].split(", ")]
            close = difflib.get_close_matches(wrong[1], choices, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(choices)}"
            raise BadSetting(repr(wrong[1]), f"is no {where.lower().lstrip('-')} of {self.prog}; {hint}")
        raise BadSetting(where, why) if colon else BadSetting(command, message)

    def _choices_of(self, name: str) -> str:
        """Say what may stand for a missing word, where that is known."""
        for action in self._actions:
            if action.choices and name in (action.metavar, action.dest):
                return f": {', '.join(action.choices)}"
        return ""


class Parser(ActionParser):
    """The argument parser of a command: it takes no abbreviations, and guesses what a wrong flag meant."""

    def __init__(self, command: str, description: str, *, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"{PROGRAM} {command}".rstrip(),
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse `argv` whole.

        Raises:
            BadSetting: a flag is unknown or a value missing.
        """
        known, unknown = self.parse_known_args(list(argv))
        if not unknown:
            return known
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            raise BadSetting(repr(word), "is one word too many")
        flags = [flag for action in self._actions for flag in action.option_strings]
        close = difflib.get_close_matches(word, flags, n=1)
        raise BadSetting(word, f"is no flag of {self.prog}" + (f"; did you mean {close[0]}?" if close else ""))


def between(low: int, high: int) -> Callable[[str], int]:
    """Make a reader of whole numbers within bounds."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not low <= int(text[:20]) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return read


def made(folder: Path) -> Path:
    """Make the folder that --out names, and see that it can be written.

    Raises:
        BadSetting: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadSetting(f"--out {folder}", f"cannot be written: {error.strerror or error}") from None
    return folder.resolve()
