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


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_have_theirs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.run([shell]) == 0
    assert "sglang-d-router" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_offers_commands_actions_and_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert completion.run(["fish"]) == 0
    script = tmp_path / "completion.fish"
    script.write_text(capsys.readouterr().out)

    def offered(line: str) -> set[str]:
        code = f"source {script}; complete -C '{line}'"
        done = subprocess.run(["fish", "-N", "-c", code], capture_output=True, text=True, timeout=20, check=True)
        return {offer.partition("\t")[0] for offer in done.stdout.splitlines()}

    assert set(COMMANDS) <= offered("sglang-d-router ")
    assert "quarantine" in offered("sglang-d-router workers ")
    assert "--weight-version" in offered("sglang-d-router refit --")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_takes_its_script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert completion.run(["zsh"]) == 0
    (tmp_path / "_sglang-d-router").write_text(capsys.readouterr().out)
    code = f"fpath=({tmp_path} $fpath); autoload -U compinit; compinit -D -u; print $_comps[sglang-d-router]"
    done = subprocess.run(["zsh", "-f", "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == ("_sglang-d-router\n", "")
    subprocess.run(["zsh", "-n", str(tmp_path / "_sglang-d-router")], check=True, timeout=20)


def test_a_shell_that_is_not_known_is_named() -> None:
    with pytest.raises(BadSetting, match="'ksh' is no shell of sglang-d-router completion"):
        completion.run(["ksh"])
