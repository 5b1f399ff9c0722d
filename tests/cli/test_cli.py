"""Tests of the choice of a command, and of exit statuses."""

from collections.abc import Sequence

import pytest

from sglang_diffusion_routing import cli
from sglang_diffusion_routing.errors import BadSetting

pytestmark = pytest.mark.core


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Replace every command by one that records its call and gives 0."""
    calls: list[tuple[str, list[str]]] = []

    def recorder(name: str) -> cli.Run:
        def run(argv: Sequence[str]) -> int:
            calls.append((name, list(argv)))
            return 0

        return run

    for name in cli.COMMANDS:
        monkeypatch.setitem(cli.COMMANDS, name, recorder(name))
    return calls


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ([], ("serve", [])),
        (["--port", "0"], ("serve", ["--port", "0"])),
        (["serve", "--port", "0"], ("serve", ["--port", "0"])),
        (["demo", "--workers", "2"], ("demo", ["--workers", "2"])),
        (["sim"], ("sim", [])),
        (["help"], ("serve", ["--help"])),
        (["help", "workers", "drain"], ("workers", ["drain", "--help"])),
        (["bench", "serve"], ("bench", ["serve"])),
        (["workers", "list"], ("workers", ["list"])),
        (["completion", "bash"], ("completion", ["bash"])),
    ],
)
def test_the_first_word_names_the_command(
    called: list[tuple[str, list[str]]], words: list[str], call: tuple[str, list[str]]
) -> None:
    assert cli.main(words) == 0
    assert called == [call]


def test_arguments_come_from_the_process_by_default(
    called: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sglang-d-router", "sim", "--port", "0"])
    assert cli.main() == 0
    assert called == [("sim", ["--port", "0"])]


def test_an_unknown_command_is_named_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dmeo"]) == 2
    assert capsys.readouterr() == (
        "",
        "sglang-d-router: 'dmeo' is no command; did you mean demo?\n",
    )


def test_a_bad_setting_ends_with_status_2_and_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(argv: Sequence[str]) -> int:
        raise BadSetting("--port", "must be at most 65535, not 70000")

    monkeypatch.setitem(cli.COMMANDS, "serve", refuse)
    assert cli.main(["--port", "70000"]) == 2
    assert capsys.readouterr() == ("", "sglang-d-router: --port must be at most 65535, not 70000\n")


def test_an_interrupt_ends_with_the_status_of_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: Sequence[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "demo", interrupted)
    assert cli.main(["demo"]) == 130


def test_every_remote_command_is_there_under_its_name() -> None:
    from sglang_diffusion_routing.cli import remote

    assert set(cli.REMOTE) == set(remote.COMMANDS)
