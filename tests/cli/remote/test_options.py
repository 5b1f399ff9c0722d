"""Tests of which router is meant, and with which keys."""

import argparse
from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.parser import Parser
from sglang_diffusion_routing.cli.remote.options import add_common, connect, key_in
from sglang_diffusion_routing.errors import BadSetting

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


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({}, None),
        ({"KEY": ""}, None),
        ({"KEY": "one"}, "one"),
        ({"KEY": "new, old"}, "new"),
        ({"KEY_FILE": "file"}, "filed"),
        ({"KEY": "one", "KEY_FILE": "file"}, "one"),
        ({"KEY_FILE": ""}, None),
    ],
)
def test_a_key_comes_from_the_environment_or_a_file(
    environ: dict[str, str], key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("# rotated\n\nfiled\nolder\n")
    assert key_in(environ, "KEY") == key


def test_a_file_of_keys_that_is_not_there_is_named() -> None:
    with pytest.raises(BadSetting, match=r"^KEY_FILE /no/such cannot be read: No such file or directory$"):
        key_in({"KEY_FILE": "/no/such"}, "KEY")


def test_the_answer_is_waited_for_as_long_as_is_said() -> None:
    assert chosen().timeout is None
    assert chosen("--timeout", "2.5").timeout == 2.5
