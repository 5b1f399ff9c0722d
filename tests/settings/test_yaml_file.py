"""Tests of how a YAML file of settings is read."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.settings.yaml_file import Entry, read

pytestmark = pytest.mark.core


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def test_every_entry_knows_its_line_at_any_depth(file: Path) -> None:
    file.write_text("# a comment\nouter:\n  inner: [1, two]\n\n  deep: {x: null}\nlast: yes\n")
    inner = Entry("inner", [1, "two"], 3, None)
    deep = Entry("deep", {"x": None}, 5, (Entry("x", None, 5, None),))
    assert read(file, "things") == (
        Entry("outer", {"inner": [1, "two"], "deep": {"x": None}}, 2, (inner, deep)),
        Entry("last", True, 6, None),
    )


def test_a_key_that_stands_there_twice_is_two_entries(file: Path) -> None:
    file.write_text("a: {b: 1, b: 2}\n")
    (entry,) = read(file, "things")
    assert [(inner.key, inner.value) for inner in entry.entries or ()] == [("b", 1), ("b", 2)]


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_has_no_entries(file: Path, text: str) -> None:
    file.write_text(text)
    assert read(file, "things") == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n- b\n", " line 1 must be a mapping of things to values"),
        ("a: [1\n", " line 2 is not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\nb: {[x]: 2}\n", " line 2 is not valid YAML: found unhashable key"),
        ("[" * 20_000, " is nested too deeply"),
    ],
)
def test_what_is_no_mapping_gets_one_sentence(file: Path, text: str, sentence: str) -> None:
    file.write_text(text)
    with pytest.raises(BadSetting) as caught:
        read(file, "things")
    assert caught.value.message == f"{file}{sentence}"


def test_a_file_that_is_not_there_gets_one_sentence(file: Path) -> None:
    with pytest.raises(BadSetting) as caught:
        read(file, "things")
    assert caught.value.message == f"{file} cannot be read: No such file or directory"
