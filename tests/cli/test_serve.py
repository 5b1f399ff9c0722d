"""Tests of the flags of the router."""

from pathlib import Path

import pytest

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing.cli import serve
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.settings import Settings
from sglang_diffusion_routing.settings.declared import declared

pytestmark = pytest.mark.core


def test_without_flags_the_defaults_hold() -> None:
    assert serve.parse([], {}) == Settings()


def test_flags_set_settings() -> None:
    words = "--port 0 --timeout 30 --queue-max-bytes 1MiB --routing-algorithm random --verbose --seed -7"
    assert serve.parse(words.split(), {}) == Settings(
        port=0, timeout_s=30, queue_max_bytes=2**20, routing_algorithm="random", verbose=True, seed=-7
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--worker-urls", "http://a:1", "http://b:2"],
        ["--worker-urls", "http://a:1", "--worker-urls", "http://b:2"],
        ["--worker-urls", "http://a:1,http://b:2"],
    ],
)
def test_worker_urls_may_follow_one_flag_or_several(words: list[str]) -> None:
    assert serve.parse(words, {}) == Settings(worker_urls=("http://a:1", "http://b:2"))


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "router.yaml"
    config.write_text("port: 1\nhost: file\nretries: 2\n")
    environ = {"SGLANG_D_ROUTER_PORT": "2", "SGLANG_D_ROUTER_HOST": "environ"}
    assert serve.parse(["--config", str(config), "--port", "3"], environ) == Settings(port=3, host="environ", retries=2)


def test_a_switch_can_be_turned_off_again() -> None:
    assert serve.parse(["--no-verbose"], {"SGLANG_D_ROUTER_VERBOSE": "true"}) == Settings()


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ([], "auto"),
        (["--state", "/var/lib/router.db"], "/var/lib/router.db"),
        (["--no-state"], None),
        (["--state", "off"], None),
        (["--no-state", "--state", "a.db"], "a.db"),
    ],
)
def test_the_state_has_a_file_a_place_of_its_own_or_none(words: list[str], state: str | None) -> None:
    assert serve.parse(words, {}) == Settings(state=state)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--prot", "1"], "--prot is no flag of sglang-d-router; did you mean --port?"),
        (["--port"], "--port expected one argument"),
        (["--port", "70000"], "--port must be at most 65535, not 70000"),
        (["--worker-urls"], "--worker-urls expected at least one argument"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml cannot be read: No such file or directory"),
        (["--por", "1"], "--por is no flag of sglang-d-router; did you mean --port?"),
    ],
)
def test_a_bad_flag_is_named(words: list[str], sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        serve.parse(words, {})
    assert caught.value.message == sentence


def test_help_has_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        serve.parse(["--help"], {})
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert [setting.flag for setting in declared() if f"  {setting.flag}" not in shown] == []


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        serve.parse(["--version"], {})
    assert (caught.value.code, capsys.readouterr().out) == (0, f"sglang-d-router {__version__}\n")
