"""Tests of the parser's one sentence for each bad argument."""

import argparse
from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.parser import ActionParser, Parser, between, made
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


def actions() -> Parser:
    parser = Parser("workers", "Workers.")
    parser.add_argument("--kind", choices=["videos", "meshes"])
    found = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=ActionParser)
    found.add_parser("list")
    found.add_parser("drain").add_argument("worker", metavar="URL")
    which = found.add_parser("abort").add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true")
    which.add_argument("--group")
    return parser


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "workers needs ACTION: list, drain, abort"),
        (["drian"], "'drian' is no action of sglang-d-router workers; did you mean drain?"),
        (["zebra"], "'zebra' is no action of sglang-d-router workers; there are list, drain, abort"),
        (["--kind", "video", "list"], "'video' is no kind of sglang-d-router workers; did you mean videos?"),
        (["drain"], "workers drain needs URL"),
        (["abort"], "workers abort needs one of --all, --group"),
    ],
)
def test_a_word_that_is_missing_or_wrong_is_named_with_those_that_there_are(words: list[str], sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        actions().parse(words)
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
