import argparse
from pathlib import Path

import pytest

from sglang_diffusion_routing.sim import cli
from sglang_diffusion_routing.sim.settings import SimSettings

pytestmark = pytest.mark.core


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(flags)


def test_every_setting_has_a_flag_with_its_default() -> None:
    assert SimSettings(**vars(parsed())) == SimSettings()


def test_flags_set_what_they_name() -> None:
    flags = [
        "--port",
        "7",
        "--model",
        "wan",
        "--speed",
        "2.5",
        "--strict-ports",
        "--output-dir",
        "/somewhere",
        "--name",
        "w1",
    ]
    assert SimSettings(**vars(parsed(*flags))) == SimSettings(
        port=7, model="wan", speed=2.5, strict_ports=True, output_dir=Path("/somewhere"), name="w1"
    )


def test_help_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed("--help")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--seconds-per-mpx-step X" in shown
    assert "{sd3,wan,edit,mesh}" in shown


def test_a_refused_value_names_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(parsed("--speed", "0")) == 2
    assert capsys.readouterr().err == "--speed 0.0: Input should be greater than 0\n"
