import pytest

from sglang_diffusion_routing.sim.profiles import PROFILES

pytestmark = pytest.mark.core


def test_every_profile_has_weights_to_refit() -> None:
    assert {name: {"transformer", "vae"} <= set(profile.modules) for name, profile in PROFILES.items()} == {
        "sd3": True,
        "wan": True,
        "edit": True,
        "mesh": True,
    }


def test_abilities_follow_from_the_tasks() -> None:
    assert {name: (profile.is_image_gen, profile.accepts_image) for name, profile in PROFILES.items()} == {
        "sd3": (True, False),
        "wan": (False, False),
        "edit": (True, True),
        "mesh": (False, True),
    }
