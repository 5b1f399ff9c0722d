"""Tests of the parser's one sentence for each bad argument."""

import argparse
from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.parser import Parser, between, made
from sglang_diffusion_routing.errors import BadSetting

pytestmark = pytest.mark.core


def parser() -> Parser:
    parser = Parser("demo", "A demo.")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--samples", type=int)
    return parser


def test_known_flags_are_parsed() -> None:
    assert vars(parser().parse(["--workers", "3", "--samples=4"])) == {"workers": 3, "samples": 4}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--worker", "3"], "--worker is no flag of sglang-d-router demo; did you mean --workers?"),
        (["--zebra"], "--zebra is no flag of sglang-d-router demo"),
        (["--worker=3"], "--worker is no flag of sglang-d-router demo; did you mean --workers?"),
        (["extra"], "'extra' is one word too many"),
        (["--workers"], "--workers expected one argument"),
        (["--workers", "x"], "--workers invalid int value: 'x'"),
    ],
)
def test_a_bad_argument_is_named(words: list[str], sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parser().parse(words)
    assert caught.value.message == sentence


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.touch()
    with pytest.raises(BadSetting, match="file/out cannot be written: Not a directory"):
        made(taken / "out")


@pytest.mark.parametrize("text", ["0", "17", "1.5", "-1", "one", "٣"])
def test_a_number_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number from 1 to 16, not "):
        between(1, 16)(text)
