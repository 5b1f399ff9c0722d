"""Commands are values."""

import dataclasses
from typing import get_args

import pytest

from sglang_diffusion_routing.core import commands as do

pytestmark = pytest.mark.core


def test_every_command_names_its_worker_and_cannot_be_changed() -> None:
    declared = {kind for kind in vars(do).values() if dataclasses.is_dataclass(kind) and kind.__module__ == do.__name__}
    assert declared == set(get_args(do.Command))
    for kind in declared:
        assert kind.__dataclass_params__.frozen
        assert "worker_id" in {field.name for field in dataclasses.fields(kind)}


def test_what_ends_in_an_answer_carries_the_id_that_the_answer_must_have() -> None:
    remote = {
        kind for kind in get_args(do.Command) if "command_id" in {field.name for field in dataclasses.fields(kind)}
    }
    assert remote == {do.ReleaseMemory, do.ResumeMemory, do.UpdateWeights, do.ResyncWeights}
