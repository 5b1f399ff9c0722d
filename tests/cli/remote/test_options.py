"""Tests of which router is meant, and with which keys."""

import argparse

import pytest

from sglang_diffusion_routing.cli.parser import Parser
from sglang_diffusion_routing.cli.remote.options import add_common, connect

pytestmark = pytest.mark.core


def chosen(*words: str) -> argparse.Namespace:
    parser = Parser("x", "X.")
    add_common(parser)
    return parser.parse(words)


@pytest.mark.parametrize(
    ("words", "environ", "url"),
    [
        ([], {}, "http://localhost:30080"),
        ([], {"SGLANG_D_ROUTER_URL": "http://a:1"}, "http://a:1"),
        (["--url", "http://b:2"], {"SGLANG_D_ROUTER_URL": "http://a:1"}, "http://b:2"),
    ],
)
def test_the_flag_comes_before_the_environment(words: list[str], environ: dict[str, str], url: str) -> None:
    with connect(chosen(*words), environ) as client:
        assert client.url == url


def test_the_answer_is_waited_for_as_long_as_is_said() -> None:
    assert chosen().timeout is None
    assert chosen("--timeout", "2.5").timeout == 2.5
