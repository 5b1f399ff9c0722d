"""Tests of where the demo's prompts come from."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.demo import prompts
from sglang_diffusion_routing.errors import BadSetting

pytestmark = pytest.mark.core


def test_enough_different_prompts_are_shipped() -> None:
    shipped = prompts.shipped()
    assert len(shipped) >= 48
    assert len(set(shipped)) == len(shipped)
    assert all("\n" not in prompt and prompt == prompt.strip() for prompt in shipped)


def test_a_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa fox\r\n\n  ein Füchslein  \n".encode())
    assert prompts.read(file) == ["a fox", "ein Füchslein"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has no prompt in it"),
        (b"\n \n", "has no prompt in it"),
        (b"a fox\n\xff\xfe", "must be text in UTF-8; the byte at 6 is not"),
        (b"a fox\n" + b"x" * 4001, "line 2 is longer than 4000 characters"),
        (b"x" * (prompts.FILE_MAX_BYTES + 1), "is larger than 16 MiB"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(BadSetting) as caught:
        prompts.read(file)
    assert caught.value.message == f"--prompts {file} {why}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetting) as caught:
        prompts.read(tmp_path / "none.txt")
    assert caught.value.message == f"--prompts {tmp_path}/none.txt cannot be read: No such file or directory"


def test_prompts_are_drawn_in_the_order_of_the_file() -> None:
    known = [f"{number:03}" for number in range(100)]
    drawn = prompts.choose(known, 10, seed=3)
    assert len(drawn) == 10
    assert drawn == sorted(drawn)
    assert drawn == prompts.choose(known, 10, seed=3)
    assert drawn != prompts.choose(known, 10, seed=4)


def test_all_prompts_are_taken_when_there_are_no_more() -> None:
    assert prompts.choose(["a", "b"], 48, seed=0) == ["a", "b"]
