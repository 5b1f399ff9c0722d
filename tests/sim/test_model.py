import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sglang_diffusion_routing.sim.model import Model, Outcome
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.tensors import to_safetensors
from sglang_diffusion_routing.sim.weights import seeded_module, tensor_checksum, write_checkpoint

pytestmark = pytest.mark.core

MODULES = ["transformer", "vae", "text_encoder_3", "text_encoder_2", "text_encoder"]


def model(**settings: Any) -> Model:
    return Model(SimSettings(**settings))


def payload(**tensors: Any) -> str:
    return base64.b64encode(
        to_safetensors({name.replace("__", "."): tensor for name, tensor in tensors.items()})
    ).decode()


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    write_checkpoint(tmp_path / "step-1", 1)
    return str(tmp_path / "step-1")


def test_workers_of_the_same_model_start_with_the_same_weights() -> None:
    assert model().checksums(None) == model().checksums(None)
    assert list(model().checksums(None)) == MODULES
    assert model().checksums(None)["transformer"] == model().transformer_checksum


@pytest.mark.parametrize("settings", [{"model_path": "sim/other"}, {"weights_seed": 1}])
def test_another_path_or_seed_gives_other_weights(settings: dict[str, Any]) -> None:
    assert not set(model().checksums(None).values()) & set(model(**settings).checksums(None).values())


def test_a_model_path_that_is_a_checkpoint_is_loaded(checkpoint: str) -> None:
    refit = model()
    refit.update_from_disk(checkpoint, None)
    started = model(model_path=checkpoint)
    assert started.checksums(["transformer", "vae"]) == refit.checksums(["transformer", "vae"])


def test_an_unknown_module_has_no_checksum() -> None:
    assert model().checksums(["nope"]) == {"nope": "not_found"}


def test_workers_that_load_the_same_checkpoint_agree(checkpoint: str) -> None:
    first, second = model(), model()
    outcome = Outcome(True, "Updated 5 modules (transformer, vae, text_encoder_3, text_encoder_2, text_encoder).")
    assert first.update_from_disk(checkpoint, None) == second.update_from_disk(checkpoint, None) == outcome
    assert first.checksums(None) == second.checksums(None)


def test_text_encoders_report_success_and_change_in_part(checkpoint: str) -> None:
    loaded, before, started = model(), model().checksums(None), model(model_path=checkpoint).checksums(None)
    loaded.update_from_disk(checkpoint, None)
    after = loaded.checksums(None)
    assert [name for name in MODULES if after[name] == before[name]] == []
    assert [name for name in MODULES if after[name] == started[name]] == ["transformer", "vae"]


def test_only_the_modules_asked_for_are_loaded(checkpoint: str) -> None:
    loaded, before = model(), model().checksums(None)
    assert loaded.update_from_disk(checkpoint, ["transformer"]) == Outcome(True, "Updated 1 modules (transformer).")
    changed = [name for name in MODULES if loaded.checksums(None)[name] != before[name]]
    assert changed == ["transformer"]


def test_the_first_weights_come_back_by_their_path(checkpoint: str) -> None:
    loaded, before = model(weights_seed=3), model(weights_seed=3).checksums(None)
    loaded.update_from_disk(checkpoint, None)
    loaded.update_from_disk("sim/stable-diffusion-3-medium", None)
    assert loaded.checksums(None) == before


def test_an_unknown_module_is_refused_in_the_words_of_a_real_worker(checkpoint: str) -> None:
    loaded, before = model(), model().checksums(None)
    assert loaded.update_from_disk(checkpoint, ["nope"]) == Outcome(
        False, f"Module(s) requested for update not found in pipeline: ['nope']. Available Module(s): {MODULES}"
    )
    assert loaded.checksums(None) == before


def test_a_checkpoint_that_lacks_a_module_changes_nothing(checkpoint: str) -> None:
    (Path(checkpoint) / "text_encoder" / "model.safetensors").unlink()
    loaded, before = model(), model().checksums(None)
    assert loaded.update_from_disk(checkpoint, None) == Outcome(
        False, "Cannot update weights: missing weight files for modules: ['text_encoder']. No partial updates allowed."
    )
    assert loaded.checksums(None) == before


def test_a_misloaded_refit_reports_success_with_other_weights(checkpoint: str) -> None:
    right, wrong = model(), model()
    right.update_from_disk(checkpoint, None)
    assert wrong.update_from_disk(checkpoint, None, misload=True).success
    assert wrong.checksums(["transformer"]) not in (
        right.checksums(["transformer"]),
        model().checksums(["transformer"]),
    )


def test_tensors_are_loaded_into_the_transformer_by_default() -> None:
    loaded = model()
    gain = np.full(16, 0.5, dtype=np.float32)
    assert loaded.update_from_tensor(payload(style__gain=gain), None) == Outcome(
        True, "Updated 1 modules from tensor (transformer)."
    )
    np.testing.assert_array_equal(loaded.transformer["style.gain"], gain)
    np.testing.assert_array_equal(loaded.transformer["style.weight"], model().transformer["style.weight"])


def test_names_with_a_module_go_to_that_module() -> None:
    loaded = model()
    tensors = {
        "transformer.style.gain": np.zeros(16, dtype=np.float32),
        "vae.decoder.bias": np.zeros(3, dtype=np.float32),
    }
    body = base64.b64encode(to_safetensors(tensors)).decode()
    assert loaded.update_from_tensor(body, ["transformer", "vae"]).message == (
        "Updated 2 modules from tensor (transformer, vae)."
    )
    assert (loaded.transformer["style.gain"].sum(), loaded.vae["decoder.bias"].sum()) == (0, 0)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [("AAAA", r"invalid load key, '\x00'."), ("", "Ran out of input"), ("a", "number of data characters")],
)
def test_a_payload_that_is_no_tensor_file_is_refused(body: str, complaint: str) -> None:
    loaded = model()
    outcome = loaded.update_from_tensor(body, None)
    assert not outcome.success
    assert outcome.message.startswith("Failed to deserialize serialized_named_tensors: ")
    assert complaint in outcome.message
    assert loaded.checksums(None) == model().checksums(None)


def test_a_failure_half_way_leaves_what_was_loaded_before_it() -> None:
    loaded = model()
    outcome = loaded.update_from_tensor(
        payload(style__gain=np.zeros(16, dtype=np.float32), nope=np.zeros(1, dtype=np.float32)), None
    )
    assert not outcome.success
    assert "The pipeline may be partially updated" in outcome.message
    assert loaded.transformer["style.gain"].sum() == 0
    assert loaded.transformer_checksum != model().transformer_checksum


def test_the_checker_accepts_the_live_weights() -> None:
    live = model()
    expected = {name: tensor_checksum(tensor) for name, tensor in live.transformer.items()}
    assert live.verify("transformer", expected) == Outcome(
        True, "Verified module 'transformer' update for 2 tensor(s)."
    )


def test_the_checker_names_what_is_missing_and_what_differs() -> None:
    expected = {f"missing.{index}": "0" for index in range(7)} | {"style.gain": "0"}
    assert model().verify("transformer", expected) == Outcome(
        False,
        "Module 'transformer' update weight check failed: missing 7 tensor(s): missing.0, missing.1, missing.2, "
        "missing.3, missing.4, ... (+2 more); checksum mismatch for 1 tensor(s): style.gain",
    )


def test_the_checker_knows_its_modules() -> None:
    assert model().verify("nope", {"a": "0"}) == Outcome(False, "Module 'nope' is not initialized")


def test_an_adapter_changes_the_transformers_checksum_and_back() -> None:
    live = model()
    live.set_adapters(nicknames=["a"], paths=["hub/a"], targets=["all"], strengths=[1.0])
    merged = live.transformer_checksum
    live.unmerge_adapters()
    assert live.checksums(None) == model().checksums(None)
    live.merge_adapters(1.0)
    assert live.checksums(None)["transformer"] == merged != model().transformer_checksum


def test_a_refit_drops_the_adapters_of_the_weights_it_replaces(checkpoint: str) -> None:
    live, plain = model(), model()
    live.set_adapters(nicknames=["a"], paths=["hub/a"], targets=["all"], strengths=[1.0])
    live.update_from_disk(checkpoint, None)
    plain.update_from_disk(checkpoint, None)
    assert live.checksums(None) == plain.checksums(None)
    assert live.adapters.status()["active"] == {}


def test_a_module_is_made_of_the_tensors_of_its_kind() -> None:
    assert set(seeded_module("x", "conditioner")) == {"attention.weight", "embedding.weight"}
