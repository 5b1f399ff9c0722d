from pathlib import Path

import pytest
from pydantic import ValidationError

from sglang_diffusion_routing.sim.faults import WORK_PATHS, Faults

pytestmark = pytest.mark.core


def test_nothing_is_wrong_at_first() -> None:
    assert Faults().model_dump() == {
        "only_paths": list(WORK_PATHS),
        "fail_next": 0,
        "cut_next": 0,
        "cut_after_bytes": 0,
        "reply_delay_s": 0.0,
        "health_delay_s": 0.0,
        "hang": False,
        "slow_factor": 1.0,
        "broken": False,
        "refuse_refits": False,
        "spoil_refits": False,
        "misload_refits": False,
        "refuse_release": False,
        "refuse_resume": False,
        "die_in_generation": False,
        "scheduler_dead": False,
        "die": False,
    }


def test_faults_of_requests_meet_work_only_unless_paths_are_named() -> None:
    assert Faults().applies_to("POST", "/rollout/generate")
    assert not Faults().applies_to("POST", "/release_memory_occupation")
    assert not Faults().applies_to("GET", "/v1/videos")
    assert Faults(only_paths=["/release"]).applies_to("POST", "/release_memory_occupation")


def test_values_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValidationError):
        Faults(fail_next=-1)
    with pytest.raises(ValidationError):
        Faults.model_validate({"unknown": True})


def test_every_fault_is_documented() -> None:
    table = (Path(__file__).parents[2] / "docs" / "simulated-worker.md").read_text(encoding="utf-8")
    assert [name for name in Faults.model_fields if f"`{name}`" not in table] == []
