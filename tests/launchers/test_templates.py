"""Placeholders: what they become, and which there are not."""

import re

import pytest

from sglang_diffusion_routing.launchers.templates import check, fill

pytestmark = pytest.mark.core

VALUES: dict[str, str | int] = {"index": 3, "port": 81, "model": "a model"}


def test_a_word_stays_one_word_whatever_is_put_into_it() -> None:
    assert fill(["--model={model}", "{index}{port}", "plain"], VALUES) == ["--model=a model", "381", "plain"]


def test_a_brace_is_written_twice() -> None:
    words = ["${{HOME}}/{index}", "{{port}}"]
    check(words, VALUES)
    assert fill(words, VALUES) == ["${HOME}/3", "{port}"]


def test_a_value_with_braces_is_not_looked_into() -> None:
    assert fill(["{model}"], {"model": "{port}"}) == ["{port}"]


KNOWN = "only {index}, {port}, {model}; {{ and }} stand for braces"


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("{prt}", f"has no placeholder {{prt}}, {KNOWN}"),
        ("${HOME}/x", f"has no placeholder {{HOME}}, {KNOWN}"),
        ("{}", f"has no placeholder {{}}, {KNOWN}"),
        ("{port:>8}", f"has no placeholder {{port:>8}}, {KNOWN}"),
        ("{model!r}", f"has no placeholder {{model!r}}, {KNOWN}"),
        ("{model.__class__}", f"has no placeholder {{model.__class__}}, {KNOWN}"),
        ("{model[0]}", f"has no placeholder {{model[0]}}, {KNOWN}"),
        ("{port", "has a brace that is not closed, or not opened, in '{port'; {{ and }} stand for braces"),
        ("port}", "has a brace that is not closed, or not opened, in 'port}'; {{ and }} stand for braces"),
    ],
)
def test_what_is_no_placeholder_is_named(word: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        check(["--fine={port}", word], VALUES)
