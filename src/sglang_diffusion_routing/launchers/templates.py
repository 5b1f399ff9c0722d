"""Fill in the placeholders of a command or a URL; what is not one is refused when the file is read."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Mapping, Sequence


def fill(words: Sequence[str], values: Mapping[str, str | int]) -> list[str]:
    """Put values in the place of `{name}`; `{{` and `}}` stand for braces. A word stays one word."""
    return ["".join(_filled(word, values)) for word in words]


def _filled(word: str, values: Mapping[str, str | int]) -> Iterator[str]:
    for text, name, _, _ in string.Formatter().parse(word):
        yield text
        if name is not None:
            yield str(values[name])


def check(words: Sequence[str], known: Collection[str]) -> None:
    """Make sure that `fill` can fill in every word.

    Raises:
        ValueError: half a sentence that names what is wrong.
    """
    for word in words:
        try:
            parts = list(string.Formatter().parse(word))
        except ValueError:
            raise ValueError(
                f"has a brace that is not closed, or not opened, in {word!r}; {{{{ and }}}} stand for braces"
            ) from None
        for _, name, form, conversion in parts:
            if name is None:
                continue
            if name not in known or form or conversion:
                shown = "{" + name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") + "}"
                raise ValueError(
                    f"has no placeholder {shown}, only {', '.join(f'{{{one}}}' for one in known)}; "
                    f"{{{{ and }}}} stand for braces"
                )
