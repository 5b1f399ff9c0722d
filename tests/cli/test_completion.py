"""Tests of shell completion."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sglang_diffusion_routing.cli import COMMANDS, completion
from sglang_diffusion_routing.errors import BadSetting

pytestmark = pytest.mark.core


def complete(script: Path, *words: str) -> set[str]:
    """Ask bash what it offers for the last word."""
    line = f"""
    source {script}
    COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
    $(complete -p sglang-d-router | sed -E 's/.*-F ([^ ]+).*/\\1/') sglang-d-router
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import contextlib

    path = tmp_path_factory.mktemp("completion") / "completion.bash"
    with path.open("w") as file, contextlib.redirect_stdout(file):
        assert completion.run(["bash"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_offers_commands_actions_and_flags(script: Path) -> None:
    assert set(COMMANDS) <= complete(script, "sglang-d-router", "")
    assert complete(script, "sglang-d-router", "wor") == {"workers"}
    assert "quarantine" in complete(script, "sglang-d-router", "workers", "")
    assert "--weight-version" in complete(script, "sglang-d-router", "refit", "--")
    assert "--routing-algorithm" in complete(script, "sglang-d-router", "--rou")


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_theirs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.run([shell]) == 0
    assert "sglang-d-router" in capsys.readouterr().out


def test_a_shell_that_is_not_known_is_named() -> None:
    with pytest.raises(BadSetting, match="fish"):
        completion.run(["fish"])
