from pathlib import Path

import pytest
from fastapi import HTTPException

from sglang_diffusion_routing.sim.jobs import Job
from sglang_diffusion_routing.sim.profiles import PROFILES
from sglang_diffusion_routing.sim.routes import common
from sglang_diffusion_routing.sim.sampler import Plan
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.worker import Worker

pytestmark = pytest.mark.core

SD3, WAN = PROFILES["sd3"], PROFILES["wan"]


def test_what_is_not_said_is_the_models_default() -> None:
    assert common.plan_of(SD3, "a") == Plan(prompt="a", seeds=(42,), width=1024, height=1024, steps=50)
    assert common.plan_of(WAN, "a") == Plan(prompt="a", seeds=(42,), width=832, height=480, steps=50, frames=81)


def test_width_and_height_win_over_the_size() -> None:
    plan = common.plan_of(SD3, "a", size="64 X 32", height=16)
    assert (plan.width, plan.height) == (64, 16)


def test_an_image_model_has_no_frames() -> None:
    assert common.plan_of(SD3, "a", frames=5).frames is None


@pytest.mark.parametrize(
    ("seed", "outputs", "seeds"), [(7, 3, (7, 8, 9)), ([5, 1], 2, (5, 1)), (None, 2, (42, 43)), (0, 1, (0,))]
)
def test_each_output_has_a_seed(seed: int | list[int] | None, outputs: int, seeds: tuple[int, ...]) -> None:
    assert common.plan_of(SD3, "a", seed=seed, outputs=outputs).seeds == seeds


@pytest.mark.parametrize("size", ["", None])
def test_an_empty_size_is_none(size: str | None) -> None:
    assert common.plan_of(SD3, "a", size=size).width == 1024


@pytest.mark.parametrize("size", ["x", "64", "64x64x64", "-1x64", "64x1.5", "axb"])
def test_a_size_must_be_two_positive_numbers(size: str) -> None:
    with pytest.raises(HTTPException) as refusal:
        common.plan_of(SD3, "a", size=size)
    assert (refusal.value.status_code, refusal.value.detail) == (400, "size must be formatted as positive WIDTHxHEIGHT")


def test_padding_is_as_long_as_asked_for() -> None:
    sizes = [0, 1, 65536, 65537]
    assert [len(common.padding(Worker(SimSettings(pad_reply_bytes=size)))) for size in sizes] == sizes


def test_a_stamp_is_a_header_only_when_there_is_one() -> None:
    assert common.stamp("w") == {"x-sim-weights": "w"}
    assert common.stamp("") == {}


def test_a_file_that_has_gone_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(HTTPException, match="404: Video variant None not found"):
        common.file_of(Job({}, [tmp_path / "gone.mp4"]), "Video", None, "video/mp4")
