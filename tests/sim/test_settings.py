from typing import Any

import pytest
from pydantic import ValidationError

from sglang_diffusion_routing.sim.settings import SimSettings

pytestmark = pytest.mark.core


def test_the_model_decides_path_and_name() -> None:
    settings = SimSettings(model="wan")
    assert settings.effective_model_path == settings.effective_served_model_name == "sim/wan2.1-t2v-1.3b"


def test_a_path_given_is_also_the_served_name_unless_that_is_given() -> None:
    assert SimSettings(model_path="m").effective_served_model_name == "m"
    assert SimSettings(model_path="m", served_model_name="n").effective_served_model_name == "n"


@pytest.mark.parametrize(
    "values",
    [
        {"speed": 0},
        {"jitter": 1.0},
        {"block_event_loop": 1.1},
        {"port": 65536},
        {"model": "flux"},
        {"seconds_per_mpx_step": float("nan")},
        {"num_gpus": 0},
        {"unknown": 1},
    ],
)
def test_a_value_out_of_bounds_or_an_unknown_name_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        SimSettings(**values)
    assert [error["loc"] for error in refusal.value.errors()] == [(next(iter(values)),)]


@pytest.mark.parametrize("faults", ['{"gremlins": true}', '{"fail_next": -1}', "half a {"])
def test_faults_that_do_not_exist_are_refused(faults: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        SimSettings(faults=faults)
    assert [error["loc"][0] for error in refusal.value.errors()] == ["faults"]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SimSettings().speed = 2.0  # type: ignore[misc]
