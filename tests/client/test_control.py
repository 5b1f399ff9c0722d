"""Tests of the requests that change the fleet."""

import pytest

from sglang_diffusion_routing.client import control
from sglang_diffusion_routing.client.exchange import Send

pytestmark = pytest.mark.core


def test_what_is_not_said_is_not_sent() -> None:
    assert control.refit("/c", None, "drain", None, None, None) == Send(
        "POST", "/update_weights_from_disk", json={"model_path": "/c"}, params={"mode": "drain"}
    )
    assert control.sleep(None, None) == Send("POST", "/release_memory_occupation")
    assert control.wake(None) == Send("POST", "/resume_memory_occupation")
    assert control.pause(None) == Send("POST", "/pause_generation", json={})


def test_what_is_said_is_sent_where_the_router_reads_it() -> None:
    assert control.refit("/c", "v1", "rolling", ["transformer"], 60.0, "zone=a") == Send(
        "POST",
        "/update_weights_from_disk",
        json={"model_path": "/c", "target_modules": ["transformer"], "weight_version": "v1"},
        params={"mode": "rolling", "selector": "zone=a", "timeout_s": "60"},
    )
    assert control.set_lora("a", "/l", "v2", "drain", {"strength": 0.5}) == Send(
        "POST",
        "/v1/set_lora",
        json={"lora_nickname": "a", "strength": 0.5, "lora_path": "/l", "weight_version": "v2"},
        params={"mode": "drain"},
    )
    assert control.sleep("all", 5.5).params == {"selector": "all", "timeout_s": "5.5"}
    assert control.checksums("zone=a").params == {"selector": "zone=a"}
    assert control.pause(3).json == {"timeout_s": 3}


def test_an_abort_is_of_a_group_of_one_request_or_of_all() -> None:
    assert control.abort("g", None).json == {"group": "g"}
    assert control.abort(None, "r").json == {"rid": "r"}
    assert control.abort(None, None).json == {"all": True}
    with pytest.raises(ValueError, match="not both"):
        control.abort("g", "r")
