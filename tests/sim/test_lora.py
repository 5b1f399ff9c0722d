from typing import Any

import numpy as np
import pytest

from sglang_diffusion_routing.sim.lora import Adapters, LoraError
from sglang_diffusion_routing.sim.weights import module_checksum, seeded_module

pytestmark = pytest.mark.core

BASE = seeded_module("test", "transformer")


def adapters(**changes: Any) -> Adapters:
    made = Adapters()
    request: dict[str, Any] = {"nicknames": ["a"], "paths": ["hub/a"], "targets": ["all"], "strengths": [1.0]}
    made.set(**{**request, **changes})
    return made


def test_an_adapter_changes_the_weights_in_proportion_to_its_strength() -> None:
    whole, half = adapters().on(BASE), adapters(strengths=[0.5]).on(BASE)
    for name, tensor in BASE.items():
        assert not np.allclose(whole[name], tensor)
        np.testing.assert_allclose(half[name] - tensor, (whole[name] - tensor) / 2, atol=1e-6)


def test_unmerging_gives_the_base_back_bit_for_bit() -> None:
    made = adapters()
    made.unmerge()
    assert module_checksum(made.on(BASE)) == module_checksum(BASE)
    made.merge(1.0)
    assert module_checksum(made.on(BASE)) == module_checksum(adapters().on(BASE))


def test_merging_sets_the_strength() -> None:
    made = adapters()
    made.merge(0.25)
    assert module_checksum(made.on(BASE)) == module_checksum(adapters(strengths=[0.25]).on(BASE))


def test_what_an_adapter_adds_follows_from_its_path() -> None:
    assert module_checksum(adapters(nicknames=["b"]).on(BASE)) == module_checksum(adapters().on(BASE))
    assert module_checksum(adapters(paths=["hub/b"]).on(BASE)) != module_checksum(adapters().on(BASE))


def test_a_loaded_adapter_can_be_set_again_by_name() -> None:
    made = adapters()
    made.set(nicknames=["a"], paths=[None], targets=["transformer"], strengths=[2.0])
    assert made.status() == {
        "loaded_adapters": [{"nickname": "a", "path": "hub/a"}],
        "active": {
            "transformer": [
                {
                    "nickname": "a",
                    "nicknames": ["a"],
                    "path": "hub/a",
                    "merged": True,
                    "mode": "merged",
                    "strength": 2.0,
                    "strengths": [2.0],
                }
            ]
        },
    }


def test_nothing_is_active_before_an_adapter_is_set() -> None:
    assert Adapters().status() == {"loaded_adapters": [], "active": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": [None]}, "Adapter a not found in the pipeline. Please provide lora_path to load it."),
        ({"paths": ["/nowhere"]}, "Weight path does not exist: /nowhere"),
        ({"paths": []}, "Length mismatch: lora_nickname has 1 items, but lora_path has 0 items"),
        ({"strengths": [1.0, 2.0]}, "Length mismatch: lora_nickname has 1 items, but strength has 2 items"),
        (
            {"targets": ["vae"]},
            "Invalid target(s): ['vae']. Valid targets: ['all', 'transformer', 'transformer_2', 'critic']",
        ),
    ],
)
def test_a_request_that_does_not_fit_changes_nothing(changes: dict[str, Any], message: str) -> None:
    made = Adapters()
    request: dict[str, Any] = {"nicknames": ["a"], "paths": ["hub/a"], "targets": ["all"], "strengths": [1.0]}
    with pytest.raises(LoraError) as refusal:
        made.set(**{**request, **changes})
    assert (str(refusal.value), made) == (message, Adapters())
