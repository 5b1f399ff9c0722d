"""Tests of the demo's options."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.demo.options import Options, parse
from sglang_diffusion_routing.cli.demo.prompts import choose, shipped
from sglang_diffusion_routing.errors import BadSetting

pytestmark = pytest.mark.core


def test_the_defaults_are_48_prompts_with_4_samples_on_4_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = Options(workers=4, prompts=tuple(choose(shipped(), 48, 0)), samples=4, out=tmp_path / "demo-out", seed=0)
    assert parse([]) == expected
    assert expected.out.is_dir()


def test_options_are_read(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a\nb\nc\n")
    words = f"--workers 2 --prompts {file} --count 3 --samples 8 --out {tmp_path}/deep/out --seed 9"
    assert parse(words.split()) == Options(
        workers=2, prompts=("a", "b", "c"), samples=8, out=tmp_path / "deep" / "out", seed=9
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "0"], "--workers must be a whole number from 1 to 16, not '0'"),
        (["--workers", "17"], "--workers must be a whole number from 1 to 16, not '17'"),
        (["--samples", "1"], "--samples must be a whole number from 2 to 64, not '1'"),
        (["--count", "-3"], "--count must be a whole number from 1 to 10000, not '-3'"),
        (["--seed", "x"], "--seed must be a whole number from 0 to 4294967296, not 'x'"),
        (["--seed", "9" * 5000], f"--seed must be a whole number from 0 to 4294967296, not '{'9' * 5000}'"),
        (["--worker", "2"], "--worker is no flag of sglang-d-router demo; did you mean --workers?"),
        (["--prompts", "/nowhere"], "--prompts /nowhere cannot be read: No such file or directory"),
        (["--out", "/proc/demo"], "--out /proc/demo cannot be written: No such file or directory"),
        (["--out", "/dev/null"], "--out /dev/null cannot be written: File exists"),
    ],
)
def test_a_bad_option_is_named(words: list[str], sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parse(words)
    assert caught.value.message == sentence
